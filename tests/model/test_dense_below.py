"""`set_dense_below`: small batches get what r = 1 gives, larger ones are routed."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.integrations.export import export_program
from tests.helpers.conditional_models import REPRESENTATIVES, logits_of, make_conditional
from tests.helpers.mixed_batches import add
from tests.helpers.tiny_models import TINY_MODELS


def make(name: str, padding: str, mode: str) -> tuple[PreTrainedModel, dict[str, Tensor], int]:
    """Return a conditional model, inputs, and the tokens that its layers see, padding included."""
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention), attention_mode=mode)
    inputs = tiny.make_inputs(padding)
    with ca.record_routing(model) as routing:
        logits_of(model, inputs)
    return model, inputs, routing.layers[0].router_logits.numel()


@torch.no_grad()
@pytest.mark.parametrize("name, padding, mode", REPRESENTATIVES)
def test_a_batch_below_the_limit_gets_what_r_1_gives(name, padding, mode) -> None:
    model, inputs, num_tokens = make(name, padding, mode)
    routed = logits_of(model, inputs)
    ca.set_dense_below(model, num_tokens)
    assert torch.equal(logits_of(model, inputs), routed)  # not below it
    ca.set_dense_below(model, num_tokens + 1)
    below = logits_of(model, inputs)
    assert not torch.equal(below, routed)
    ca.set_dense_below(model, None)
    assert torch.equal(logits_of(model, inputs), routed)
    ca.set_reduction_factor(model, 1)
    assert torch.equal(below, logits_of(model, inputs))


@torch.no_grad()
def test_rows_count_as_much_as_tokens() -> None:
    model, inputs, num_tokens = make("bert", "none", "k_to_k")
    rows = len(inputs["input_ids"])
    assert rows > 1
    first = {name: value[:1] for name, value in inputs.items()}
    routed, routed_alone = logits_of(model, inputs), logits_of(model, first)
    ca.set_dense_below(model, num_tokens // rows + 1)
    assert torch.equal(logits_of(model, inputs), routed)
    assert not torch.allclose(logits_of(model, first), routed_alone, atol=1e-4)


def test_training_is_routed_whatever_the_limit() -> None:
    model, inputs, num_tokens = make("bert", "right", "k_to_k")
    model.train()
    ca.set_dense_below(model, num_tokens + 1)
    with ca.record_routing(model) as routing:
        logits_of(model, inputs)
    assert all(decision is not None for decision in routing.layers)
    model.eval()
    with ca.record_routing(model) as routing:
        logits_of(model, inputs)
    assert routing.layers == [None] * len(routing.layers)


@torch.no_grad()
def test_rows_with_adapters_of_their_own_run_dense_together() -> None:
    model, inputs, num_tokens = make("bert", "right", "k_to_k")
    add(model, "other", reduction_factor=2)
    names = ["default", *["other"] * (len(inputs["input_ids"]) - 1)]
    ca.set_dense_below(model, num_tokens + 1)
    below = logits_of(model, inputs | {"adapter_names": names})
    ca.set_dense_below(model, None)
    for name in ("default", "other"):
        ca.set_adapter(model, name)
        ca.set_reduction_factor(model, 1)
    assert torch.equal(below, logits_of(model, inputs | {"adapter_names": names}))


def test_operations_are_counted_as_they_run() -> None:
    model, _, _ = make("bert", "none", "k_to_k")
    ca.set_dense_below(model, 33)
    small = [ca.estimate_flops(model, batch_size=2, sequence_length=n).ratio for n in (16, 17)]
    assert small[0] < 1 < small[1]


def test_copies_keep_the_limit_and_detaching_forgets_it() -> None:
    model, inputs, num_tokens = make("bert", "none", "k_to_k")
    ca.set_dense_below(model, num_tokens + 1)
    torch.testing.assert_close(logits_of(copy.deepcopy(model), inputs), logits_of(model, inputs))
    ca.detach(model)
    assert not any("coda_dense_below" in vars(module) for module in model.modules())
    with pytest.raises(ca.AttachmentError, match="no conditional adapters"):
        ca.set_dense_below(model, 3)


@pytest.mark.parametrize("num_tokens", [0, -1, 2.5])
def test_a_limit_that_is_no_number_of_tokens_is_refused(num_tokens) -> None:
    model, _, _ = make("bert", "none", "k_to_k")
    with pytest.raises(ca.ConfigError, match=rf"got {num_tokens}\. Use the output of `coda bench"):
        ca.set_dense_below(model, num_tokens)


def test_a_program_with_two_paths_is_refused() -> None:
    model, inputs, _ = make("bert", "none", "k_to_k")
    ca.set_dense_below(model, 7)
    with pytest.raises(ca.ConfigError, match=r"fewer than 7 tokens.*set_dense_below\(model, None"):
        export_program(model, inputs)
