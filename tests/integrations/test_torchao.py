"""8 bits of torchao inside the frozen layers: the same tokens, nearly the same states."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters, conditional_layers
from conditional_adapters.toolkit.assets import find_adapter, load_packaged_model
from tests.helpers.conditional_models import logits_of, make_conditional
from tests.helpers.tiny_models import TINY_MODELS

# torchao 0.18 registers enums in a way that torch 2.13 has since made its own.
pytestmark = [
    pytest.mark.torchao,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


def quantize(model: PreTrainedModel) -> None:
    """Do what docs/export.md shows."""
    torchao = pytest.importorskip("torchao.quantization", reason="make test runs this apart")
    for layer in conditional_layers(model):
        torchao.quantize_(layer, torchao.Int8DynamicActivationInt8WeightConfig())


def run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    with torch.inference_mode(), ca.record_routing(model) as routing:
        states = model(**inputs).last_hidden_state
    return states, [decision.selected_indices for decision in routing.layers]


def test_minilm_in_8_bits_chooses_the_tokens_and_gives_the_states_it_did(needs) -> None:
    needs("minilm")
    model = load_packaged_model("minilm").eval()
    ca.load_adapter(model, find_adapter("packaged:minilm-elastic"))
    ca.set_reduction_factor(model, 4)
    inputs = {"input_ids": torch.randint(1000, 20000, (2, 96))}
    inputs["attention_mask"] = (torch.arange(96) < torch.tensor([[96], [61]])).long()
    adapter = {path: p.clone() for path, p in adapter_parameters(model, "default")}
    expected, chosen = run(model, inputs)
    quantize(model)
    states, found = run(model, inputs)
    assert torch.equal(found[0], chosen[0])  # what the first router reads is not quantised
    same = [
        (a.unsqueeze(-1) == b.unsqueeze(-2)).any(-1) for a, b in zip(found, chosen, strict=True)
    ]
    assert torch.cat(same).float().mean() > 0.9
    is_token = inputs["attention_mask"].bool()
    similarity = torch.cosine_similarity(states, expected, dim=-1)[is_token]
    assert similarity.mean() > 0.98
    assert not torch.equal(states, expected)
    for path, parameter in adapter_parameters(model, "default"):
        assert torch.equal(parameter, adapter[path])


@torch.no_grad()
@pytest.mark.parametrize("name, mode", [("bert", "k_to_all"), ("vit", "k_to_k")])
def test_the_frozen_maps_of_the_layers_are_in_8_bits_and_nothing_else(name, mode) -> None:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention), attention_mode=mode)
    inputs = tiny.inputs()
    expected = logits_of(model, inputs)
    quantize(model)
    eight_bits = {path for path, p in model.named_parameters() if type(p).__name__ == "Int8Tensor"}
    frozen = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layer" in path and "coda_" not in path
    }
    assert eight_bits == frozen
    torch.testing.assert_close(logits_of(model, inputs), expected, atol=0.1, rtol=0.1)


def test_an_adapter_is_saved_from_and_loaded_into_a_model_in_8_bits(tmp_path) -> None:
    tiny = TINY_MODELS["bert"]
    model = make_conditional(tiny.build(tiny.attention))
    quantize(model)
    ca.save_adapter(model, tmp_path)
    inputs = tiny.inputs()
    expected = logits_of(model, inputs)
    for _, parameter in adapter_parameters(model, "default"):
        parameter.data.zero_()
    assert not torch.allclose(logits_of(model, inputs), expected, atol=1e-3)
    ca.load_adapter(model, tmp_path)
    assert torch.equal(logits_of(model, inputs), expected)
