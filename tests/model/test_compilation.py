"""How often `torch.compile` compiles, over many lengths and sizes of batches, and what it asks."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from conditional_adapters.analysis.timing import compile_module
from tests.helpers.mixed_batches import DIFFERENT, add, make
from tests.helpers.tiny_bert import WORDS, word_tokenizer

pytestmark = pytest.mark.compile
FACTOR = 4


class Compiled:
    """A conditional BERT, as it is and compiled as one graph, with a count of its graphs."""

    def __init__(self, *, dynamic: bool) -> None:
        torch._dynamo.reset()
        torch.manual_seed(0)
        size = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
        config = BertConfig(**size, num_attention_heads=2, vocab_size=100, initializer_range=0.2)
        self.model = ca.attach(
            BertModel(config, add_pooling_layer=False).eval(),
            ca.ConditionalAdapterConfig(reduction_factor=FACTOR, adapter_dim=4),
        )
        self.counter = CompileCounter()
        self.compiled = torch.compile(
            self.model, fullgraph=True, dynamic=dynamic, backend=self.counter
        )

    @torch.no_grad()
    def compare(self, inputs: dict[str, Tensor]) -> None:
        """Check that both give the same states for real tokens."""
        expected, states = (
            model(**inputs).last_hidden_state for model in (self.model, self.compiled)
        )
        is_token = inputs["attention_mask"].bool()
        torch.testing.assert_close(states[is_token], expected[is_token], atol=1e-5, rtol=1e-4)

    def num_new_graphs(self, shapes: list[tuple[int, int]]) -> int:
        """Run batches of texts of random lengths, up to the padded one; count new graphs."""
        before = self.counter.frame_count
        for batch, tokens in shapes:
            lengths = torch.randint(1, tokens + 1, (batch, 1))
            lengths[0] = tokens
            mask = (torch.arange(tokens) < lengths).long()
            ids = torch.randint(100, (batch, tokens))
            self.compare({"input_ids": ids, "attention_mask": mask})
        return self.counter.frame_count - before


def test_open_shapes_compile_once_for_all_batches_and_lengths() -> None:
    compiled = Compiled(dynamic=True)
    ca.set_dense_below(compiled.model, 20)
    compiled.num_new_graphs([(3, 40)])
    shapes = [(b, n) for b in (2, 3, 5, 8) for n in (10, 16, 17, 31, 64, 100, 127, 256, 400)]
    assert compiled.num_new_graphs(shapes) == 0
    # What runs dense, and a single slot, are graphs of their own, each for all lengths.
    assert compiled.num_new_graphs([(2, 8)]) > 0
    assert compiled.num_new_graphs([(2, 9), (3, 6), (5, 3)]) == 0
    assert compiled.num_new_graphs([(7, FACTOR)]) > 0
    assert compiled.num_new_graphs([(10, 2), (9, 3), (20, FACTOR)]) == 0


def test_padding_to_a_multiple_gives_fixed_shapes_few_graphs() -> None:
    compiled, tokenizer = Compiled(dynamic=False), word_tokenizer(max_length=64)
    seen, before = set(), 0
    for longest in (3, 9, 17, 30, 31, 45, 62):
        texts = [" ".join(WORDS[:10] * 7).split()[:n] for n in (longest, longest // 2 + 1)]
        batch = tokenizer(
            [" ".join(text) for text in texts],
            padding=True,
            pad_to_multiple_of=32,
            return_tensors="pt",
        )
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        compiled.compare(inputs)
        is_new = inputs["input_ids"].shape not in seen
        assert (compiled.counter.frame_count > before) == is_new
        before = compiled.counter.frame_count
        seen.add(inputs["input_ids"].shape)
    assert seen == {(2, 32), (2, 64)}


@torch.no_grad()
def test_settings_that_are_timed_in_turns_have_one_graph_each() -> None:
    model = Compiled(dynamic=False).model
    inputs = {"input_ids": torch.randint(100, (2, 16))}
    compiled = {factor: compile_module(model) for factor in (1, 2, 4)}
    for _ in range(2):
        for factor, encoder in compiled.items():
            ca.set_reduction_factor(model, factor)
            expected = model(**inputs).last_hidden_state
            found = encoder(**inputs).last_hidden_state
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for encoder in compiled.values():
        code = encoder._torchdynamo_orig_callable.__code__
        assert len(torch._dynamo.eval_frame._debug_get_cache_entry_list(code)) == 1


def change_a_weight(model: nn.Module) -> None:
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.intermediate.dense.weight.mul_(1.5)
        layer.coda_part("b").adapter.up.mul_(-2)


def attach_again(model: nn.Module, **settings: object) -> None:
    ca.detach(model)
    add(model, "b", **{**DIFFERENT[1], **settings})


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "r": partial(ca.set_reduction_factor, reduction_factor=5),
    "dense": partial(ca.set_reduction_factor, reduction_factor=1),
    "other adapter": partial(ca.set_adapter, adapter_name="a"),
    "no adapter": partial(ca.set_adapter, adapter_name=None),
    "new adapter": partial(add, name="c", epsilon=0.9),
    "small batches": partial(ca.set_dense_below, num_tokens=1000),
    "training": lambda model: model.train(),
    "values": change_a_weight,
    "prepacked": ca.prepack_weights,
    "detached": ca.detach,
    "other gate": partial(attach_again, gate="weighted"),
    "other router": partial(attach_again, router_kind="learned"),
    "other activation": partial(attach_again, adapter_activation="relu"),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_the_library_changes_is_noticed(change: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, inputs = make("bert", "left", DIFFERENT)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    before = compiled(**inputs).logits
    CHANGES[change](model)
    states = torch.get_rng_state()  # of dropout
    expected = model(**inputs).logits
    torch.set_rng_state(states)
    torch.testing.assert_close(compiled(**inputs).logits, expected)
    assert change == "prepacked" or not torch.allclose(before, expected, atol=1e-5)


@torch.no_grad()
def test_training_a_dense_model_is_noticed() -> None:
    torch._dynamo.reset()
    model, inputs = make("bert")
    ca.detach(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(**inputs).logits, compiled(**inputs).logits)
    model.train()
    assert not torch.equal(compiled(**inputs).logits, compiled(**inputs).logits)


@torch.no_grad()
def test_the_rows_of_a_compiled_part_are_noticed() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, inputs = make("bert", "left", DIFFERENT)
    calls = [{}, {"adapter_names": ["a", "b"]}, {"adapter_names": ["b", None]}, {}]
    expected = [model(**inputs, **names).logits for names in calls]
    model.bert.compile(fullgraph=True, backend="eager")
    for names, logits in zip(calls, expected, strict=True):
        torch.testing.assert_close(model(**inputs, **names).logits, logits)
