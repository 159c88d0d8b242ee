"""Counts of operations against closed forms and the counter of torch."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import conditional_adapters as ca
from conditional_adapters.analysis.flops import count_flops
from tests.helpers.conditional_models import ADAPTER_DIM, attach_tiny
from tests.helpers.tiny_models import HIDDEN, LAYERS, TINY_MODELS

SEQ, BATCH, INNER, CLASSES = 24, 2, 48, 3


def bert_layer_flops(tokens: int) -> int:
    """Multiply-adds times two of one BERT layer on `tokens` tokens of each of BATCH rows."""
    projections = 4 * HIDDEN * HIDDEN * tokens
    attention = 2 * tokens * tokens * HIDDEN
    feed_forward = 2 * HIDDEN * INNER * tokens
    return 2 * BATCH * (projections + attention + feed_forward)


def test_flops_of_bert_agree_with_the_closed_form() -> None:
    model = attach_tiny("bert", reduction_factor=4)
    head = 2 * BATCH * (HIDDEN * HIDDEN + HIDDEN * CLASSES)
    k = math.ceil(SEQ / 4)
    adapter = 2 * BATCH * SEQ * 2 * HIDDEN * ADAPTER_DIM
    count = ca.estimate_flops(model, batch_size=BATCH, sequence_length=SEQ)
    assert count.dense == LAYERS * bert_layer_flops(SEQ) + head
    assert count.total == LAYERS * (bert_layer_flops(k) + adapter) + head
    assert count.ratio == count.dense / count.total


def test_flops_are_those_of_the_counter_of_torch() -> None:
    """Torch knows all products of eager attention; ours knows the fused attention, too."""
    counts = []
    for attention in ("sdpa", "eager"):
        model, inputs = attach_tiny("bert", reduction_factor=3), TINY_MODELS["bert"].inputs()
        model.set_attn_implementation(attention)
        counts.append(ca.estimate_flops(model, inputs=inputs))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(**inputs)
    assert counts[0] == counts[1]
    assert counts[1].total == counter.get_total_flops()


def test_counting_flops_changes_nothing() -> None:
    model, inputs = attach_tiny("bert"), TINY_MODELS["bert"].inputs()
    model.train()
    with torch.no_grad():
        model.eval()
        before = model(**inputs).logits
        model.train()
        ca.estimate_flops(model, batch_size=1, sequence_length=8)
        assert model.training
        model.eval()
        assert torch.equal(model(**inputs).logits, before)


def test_counting_flops_leaves_every_module_in_its_own_mode() -> None:
    model = attach_tiny("bert").train()
    model.bert.encoder.layer[1].eval()
    modes = [module.training for module in model.modules()]
    ca.estimate_flops(model, batch_size=1, sequence_length=8)
    assert [module.training for module in model.modules()] == modes


def test_modes_come_back_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout()).train()
    model[0].eval()
    with pytest.raises(RuntimeError, match="shapes"):
        count_flops(model, {"input": torch.ones(2, 5)})
    assert [module.training for module in model.modules()] == [True, False, True]


def test_the_operations_of_any_module_can_be_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 5, bias=False))
    assert count_flops(model, {"input": torch.ones(2, 3)}) == 2 * 2 * (3 * 4 + 4 * 5)


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_flops_fall_with_the_reduction_factor(name: str) -> None:
    model, inputs = attach_tiny(name, reduction_factor=1), TINY_MODELS[name].inputs()
    totals = []
    for factor in (1, 2, 4):
        ca.set_reduction_factor(model, factor)
        totals.append(ca.estimate_flops(model, inputs=inputs).total)
    assert totals[0] > totals[1] > totals[2]


@pytest.mark.parametrize("name", ["bert", "t5", "vit", "whisper", "clip"])
def test_sizes_count_as_full_inputs_of_that_size_do(name: str) -> None:
    model, inputs = attach_tiny(name), TINY_MODELS[name].inputs()
    length = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
    expected = ca.estimate_flops(model, inputs=inputs)
    assert ca.estimate_flops(model, batch_size=2, sequence_length=length) == expected


def test_padding_costs_nothing_in_routed_layers() -> None:
    model, inputs = attach_tiny("bert", reduction_factor=4), TINY_MODELS["bert"].inputs()
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][:, 4:] = 0  # one token is left to choose
    count, full = (
        ca.estimate_flops(model, inputs=inputs),
        ca.estimate_flops(model, batch_size=2, sequence_length=inputs["input_ids"].shape[1]),
    )
    assert count.dense == full.dense
    assert count.total < full.total


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("bert", {"batch_size": 0, "sequence_length": 8}, "batch_size must be at least 1, got 0"),
        ("bert", {"batch_size": 1}, "sequence_length must be at least 1 .*got None"),
        ("vit", {"batch_size": 1, "sequence_length": 8}, "must be None for a 'vit' model, got 8"),
        ("bert", {}, "either batch_size or inputs"),
        ("wav2vec2", {"batch_size": 1}, r"Call estimate_flops\(model, inputs=batch\)"),
    ],
)
def test_impossible_sizes_are_refused(name, settings, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        ca.estimate_flops(attach_tiny(name), **settings)
