"""PEFT's LoRA on the frozen projections of a conditional model: both methods at once."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import conditional_adapters as ca
from tests.helpers.gradients import assert_trained
from tests.helpers.tiny_models import HIDDEN, LAYERS, TINY_MODELS

LORA = LoraConfig(r=2, target_modules=["query", "value"])
RANK, TARGETS = 2, 2
CONFIG = ca.ConditionalAdapterConfig(reduction_factor=4, adapter_dim=5, modules_to_save=())


def lora_first(model: nn.Module) -> nn.Module:
    return ca.attach(get_peft_model(model, LORA), CONFIG)


def conditional_first(model: nn.Module) -> nn.Module:
    wrapped = get_peft_model(ca.attach(model, CONFIG), LORA)
    ca.set_adapter(wrapped, "default")  # PEFT has frozen what it does not know
    return wrapped


def train(model: nn.Module, inputs: dict[str, Tensor], steps: int) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(**inputs, labels=torch.tensor([0, 2])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize("order", [lora_first, conditional_first])
def test_both_train_are_saved_and_loaded(order, tmp_path) -> None:
    torch.manual_seed(0)
    base, inputs = TINY_MODELS["bert"].build("sdpa"), TINY_MODELS["bert"].make_inputs("right")
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    model = order(base)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    losses = train(model, inputs, steps=20)
    assert losses[-1] < 0.9 * losses[0]
    changed = {
        name.rpartition("coda_")[1] or "lora_"
        for name, p in model.named_parameters()
        if p.requires_grad and not torch.equal(p, before[name])
    }
    assert changed == {"coda_", "lora_"}
    frozen = [name for name in before if "coda_" not in name and "lora_" not in name]
    assert not frozen

    model.save_pretrained(tmp_path / "lora")
    ca.save_adapter(model, tmp_path / "conditional")
    fresh = TINY_MODELS["bert"].build("sdpa")
    fresh.load_state_dict(weights)
    fresh = PeftModel.from_pretrained(fresh, tmp_path / "lora")
    ca.load_adapter(fresh, tmp_path / "conditional")
    with torch.no_grad():
        assert torch.equal(fresh.eval()(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("order", [lora_first, conditional_first])
def test_lora_costs_a_quarter_on_a_quarter_of_the_tokens(order) -> None:
    batch, seq = 2, 32
    flops = {}
    for has_lora in (False, True):
        model = TINY_MODELS["bert"].build("sdpa")
        model = order(model) if has_lora else ca.attach(model, CONFIG)
        count = ca.estimate_flops(model, batch_size=batch, sequence_length=seq)
        flops[has_lora] = count
    per_token = LAYERS * TARGETS * 2 * (2 * HIDDEN * RANK)  # two thin products per projection
    assert flops[True].dense - flops[False].dense == batch * seq * per_token
    assert flops[True].total - flops[False].total == batch * seq // 4 * per_token


@pytest.mark.parametrize("order", [lora_first, conditional_first])
def test_lora_reaches_keys_and_values_of_all_tokens(order, monkeypatch) -> None:
    config = ca.ConditionalAdapterConfig(
        reduction_factor=4, adapter_dim=5, modules_to_save=(), attention_mode="k_to_all"
    )
    monkeypatch.setitem(globals(), "CONFIG", config)
    model, inputs = order(TINY_MODELS["bert"].build("sdpa")), TINY_MODELS["bert"].inputs()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        merged = copy.deepcopy(model).merge_and_unload()
        expected = merged(**inputs).logits
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    model.zero_grad()
    model(**inputs).logits.sum().backward()
    assert_trained(p for p in model.named_parameters() if "lora_A" in p[0] and "value" in p[0])
