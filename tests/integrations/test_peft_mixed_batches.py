"""PEFT's `adapter_names` reaches the model inside, with PEFT's name for rows without an adapter."""

import torch
from peft import get_peft_model

from conditional_adapters.integrations.peft import ConditionalAdapterPeftConfig
from tests.helpers.tiny_models import TINY_MODELS


def test_each_row_of_a_peft_model_answers_as_it_does_alone() -> None:
    tiny = TINY_MODELS["bert"]
    config = ConditionalAdapterPeftConfig(reduction_factor=3, adapter_dim=5)
    model = get_peft_model(tiny.build(tiny.attention), config, adapter_name="one").eval()
    model.add_adapter("two", config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "coda_" in path:
                parameter.add_(0.2 * torch.randn_like(parameter))
        inputs = tiny.inputs()
        mixed = model(**inputs, adapter_names=["two", "__base__"]).logits
        with model.disable_adapter():
            base = model(**inputs).logits
        model.set_adapter("two")
        two = model(**inputs).logits
    torch.testing.assert_close(mixed, torch.stack([two[0], base[1]]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[0], base[0], atol=1e-3)
