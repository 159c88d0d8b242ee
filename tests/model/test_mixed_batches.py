"""`adapter_names`: each row answers as it does alone, after `set_adapter` with its own name."""

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters, conditional_layers
from conditional_adapters.modules import ConditionalLayer
from tests.helpers.conditional_models import logits_of, states_of
from tests.helpers.gradients import assert_gradients_close, gradients_of
from tests.helpers.mixed_batches import ALIKE, DIFFERENT, add, make
from tests.helpers.tiny_models import TINY_MODELS

CASES = [
    ("bert", "left", "k_to_k", DIFFERENT, ["b", "a"]),
    ("bert", "right", "k_to_all", DIFFERENT, ["b", "a"]),
    ("bert", "right", "k_to_k", ALIKE, [None, "b"]),
    ("vit", "none", "k_to_k", DIFFERENT, ["b", "a"]),
    ("vit", "none", "k_to_all", ALIKE, [None, "b"]),
    ("t5", "left", "k_to_k", DIFFERENT, ["a", "b"]),
    ("t5", "right", "k_to_all", ALIKE, ["b", None]),
    ("whisper", "none", "k_to_k", DIFFERENT, ["a", "b"]),
    ("whisper", "none", "k_to_all", ALIKE, ["b", None]),
    ("wav2vec2-bert", "right", "k_to_k", ALIKE, ["b", "a"]),
    ("wavlm", "right", "k_to_k", ALIKE, ["b", "a"]),
]


def rows_of(inputs: dict[str, Tensor], names: Sequence[str | None]) -> Iterator[tuple]:
    for row, name in enumerate(names):
        yield row, name, {key: value[row : row + 1] for key, value in inputs.items()}


@pytest.mark.parametrize("name, padding, mode, settings, names", CASES)
def test_each_row_answers_as_it_does_alone(name, padding, mode, settings, names) -> None:
    model, inputs = make(name, padding, settings, mode)
    mixed = inputs | {"adapter_names": names}
    with torch.no_grad():
        states, logits = states_of(model, mixed), logits_of(model, mixed)
        valid = TINY_MODELS[name].valid(model, inputs, states.shape[2])
        for row, adapter, one in rows_of(inputs, names):
            ca.set_adapter(model, adapter)
            expected = states_of(model, one)[:, 0]
            found = states[:, row]
            torch.testing.assert_close(
                found[:, valid[row]], expected[:, valid[row]], atol=1e-5, rtol=1e-5
            )
            if logits.shape[:2] == valid.shape:  # a head for every token
                continue
            if not (padding == "left" and name == "bert"):  # whose head reads position 0
                torch.testing.assert_close(
                    logits[row], logits_of(model, one)[0], atol=1e-5, rtol=1e-5
                )


@pytest.mark.parametrize("count", [2, 5])
def test_adapters_of_one_shape_give_the_bits_that_they_give_alone(count) -> None:
    model, _ = make("bert")
    names = ["b", "a", "c", "d", "e"][:count]
    for adapter in names[2:]:
        add(model, adapter)
    inputs = {"input_ids": torch.randint(3, 60, (count, 11))}
    with torch.no_grad():
        logits = model(**inputs, adapter_names=names).logits
        for row, adapter, one in rows_of(inputs, names):
            ca.set_adapter(model, adapter)
            assert torch.equal(logits[row], model(**one).logits[0])


def test_the_frozen_layer_runs_once_on_the_chosen_tokens_of_all_rows() -> None:
    model, inputs = make("bert")
    shapes = []
    for layer in conditional_layers(model):
        layer.attention.self.query.register_forward_hook(
            lambda module, args, output: shapes.append(tuple(args[0].shape))
        )
    model(**inputs, adapter_names=["a", "b"])
    assert shapes == [(2, 4, 32)] * 3  # ceil(11 / 3)


def test_the_argument_leaves_no_trace() -> None:
    model, inputs = make("bert")
    with torch.no_grad():
        expected = model(**inputs).logits
        model(**inputs, adapter_names=["a", None])
        with pytest.raises(ca.AttachmentError):
            model(**inputs, adapter_names=["a", "missing"])
        with pytest.raises(ca.RoutingError):
            model(**inputs, adapter_names=["a"])
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(model(**inputs, adapter_names=None).logits, expected)
        ca.set_adapter(model, None)
        mixed = model(**inputs, adapter_names=["b", "b"]).logits  # while none is active
        assert torch.equal(copy.deepcopy(model)(**inputs, adapter_names=["b", "b"]).logits, mixed)
        assert torch.equal(mixed, expected)


@pytest.mark.parametrize(
    "names, error, message",
    [
        (["a", "sports"], ca.AttachmentError, r"no adapter 'sports'. It has \['a', 'b'\]"),
        (["a"], ca.RoutingError, r"has 1 entries, but .* shape \[2, 11"),
        (["a", "b", "b"], ca.RoutingError, r"has 3 entries, but .* shape \[2, 11"),
        ("ab", ca.RoutingError, "must be a list .* got 'ab'"),
        ([], ca.RoutingError, "must be a list"),
    ],
)
def test_wrong_names_are_refused(names, error, message) -> None:
    model, inputs = make("bert")
    with pytest.raises(error, match=message):
        model(**inputs, adapter_names=names)


def test_attention_modes_cannot_share_a_batch() -> None:
    model, inputs = make("bert", settings=({}, {"attention_mode": "k_to_all"}))
    with pytest.raises(ca.RoutingError, match="k_to_all and k_to_k cannot share"):
        model(**inputs, adapter_names=["a", "b"])


def test_routing_is_recorded_for_the_active_adapter_only() -> None:
    model, inputs = make("bert")
    with pytest.raises(ca.AttachmentError, match="with adapter_names"), ca.record_routing(model):
        model(**inputs, adapter_names=["a", "b"])


@pytest.mark.parametrize(
    "name, checkpointing",  # None, or whether it is reentrant
    [("bert", None), ("bert", True), ("bert", False), ("t5", False), ("wav2vec2", False)],
)
def test_gradients_reach_each_adapter_from_its_rows_alone(name, checkpointing) -> None:
    model, inputs = make(name, settings=({}, {"reduction_factor": 2}))
    if checkpointing is not None:
        model.activation_checkpointing_enable({"use_reentrant": checkpointing})
    for module in model.modules():
        # Layers only, so that they are checkpointed: dropout would draw other masks for rows alone.
        module.training = isinstance(module, ConditionalLayer)
    names = ["b", "a"]
    logits = logits_of(model, inputs | {"adapter_names": names})
    cotangent = torch.randn_like(logits)
    logits.backward(cotangent)
    mixed = gradients_of(model.named_parameters())
    for row, adapter, one in rows_of(inputs, names):
        model.zero_grad()
        ca.set_adapter(model, adapter)
        logits_of(model, one).backward(cotangent[row : row + 1])
        own = dict(adapter_parameters(model, adapter))
        found = {path: gradient for path, gradient in mixed.items() if path in own}
        assert_gradients_close(found, gradients_of(own.items()), atol=1e-4, rtol=1e-4)


def test_an_adapter_is_swapped_without_touching_the_others(tmp_path) -> None:
    model, inputs = make("bert")
    add(model, "c")
    ca.save_adapter(model, tmp_path / "c", adapter_name="c")
    weights = {path: p.clone() for path, p in model.named_parameters() if "coda_" not in path}
    with torch.no_grad():
        before = model(**inputs, adapter_names=["a", "c"]).logits
        ca.remove_adapter(model, "c")
        assert torch.equal(model(**inputs, adapter_names=["a", "b"]).logits[0], before[0])
        with pytest.raises(ca.AttachmentError, match="no adapter 'c'"):
            model(**inputs, adapter_names=["a", "c"])
        ca.load_adapter(model, tmp_path / "c", adapter_name="c")  # added
        assert torch.equal(model(**inputs, adapter_names=["a", "c"]).logits, before)
        ca.load_adapter(model, tmp_path / "c", adapter_name="b")  # replaced
        assert torch.equal(model(**inputs, adapter_names=["a", "b"]).logits, before)
    assert all(
        torch.equal(p, weights[path]) for path, p in model.named_parameters() if path in weights
    )


@pytest.mark.compile
def test_a_fixed_assignment_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    model, inputs = make("bert")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = model(**inputs, adapter_names=["b", "a"]).logits
        found = compiled(**inputs, adapter_names=["b", "a"]).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
