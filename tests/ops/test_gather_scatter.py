"""Gathers and the scatter against loops over single rows, values and gradients."""

import pytest
import torch
from torch import Tensor

from conditional_adapters.ops import (
    gather_pairs,
    gather_relative_bias,
    gather_tokens,
    scatter_add_tokens,
    scatter_add_tokens_,
)
from tests.helpers.draws import DTYPES, positions, values
from tests.helpers.gradients import assert_gradients_agree


def gather_tokens_by_loop(source: Tensor, indices: Tensor) -> Tensor:
    row_of = [0] * len(indices) if source.shape[0] == 1 else range(len(indices))
    return torch.stack(
        [
            torch.stack([source[row, position] for position in chosen.tolist()])
            for row, chosen in zip(row_of, indices, strict=True)
        ]
    )


def scatter_add_tokens_by_loop(base: Tensor, indices: Tensor, update: Tensor) -> Tensor:
    rows = [list(row) for row in base]
    for row, chosen in enumerate(indices.tolist()):
        for slot, position in enumerate(chosen):
            rows[row][position] = rows[row][position] + update[row, slot]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("rest", [(), (5,), (2, 3)])
@pytest.mark.parametrize("source", [1, 3])
def test_gather_tokens_agrees_with_a_loop(source: int, rest: tuple[int, ...]) -> None:
    tensor = values(source, 9, *rest).requires_grad_()
    indices = positions(3, 4, 9)
    ours, expected = gather_tokens(tensor, indices), gather_tokens_by_loop(tensor, indices)
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, tensor=tensor)


@pytest.mark.parametrize("k", [1, 9])
def test_scatter_add_tokens_agrees_with_a_loop(k: int) -> None:
    base, update = values(3, 9, 5).requires_grad_(), values(3, k, 5).requires_grad_()
    before, indices = base.detach().clone(), positions(3, k, 9)
    ours = scatter_add_tokens(base, indices, update)
    expected = scatter_add_tokens_by_loop(base, indices, update)
    assert torch.equal(ours, expected)
    assert torch.equal(base, before)
    assert_gradients_agree(ours, expected, base=base, update=update)


def test_scatter_add_tokens_in_place_adds_to_the_memory_of_its_base() -> None:
    leaf, update = values(3, 9, 5).requires_grad_(), values(3, 4, 5).requires_grad_()
    base, indices = leaf + 0, positions(3, 4, 9)
    ours = scatter_add_tokens_(base, indices, update)
    expected = scatter_add_tokens_by_loop(leaf, indices, update)
    assert ours.data_ptr() == base.data_ptr()
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, leaf=leaf, update=update)


def test_scatter_add_tokens_in_place_takes_a_base_of_any_layout() -> None:
    base, update, indices = values(9, 3, 5).transpose(0, 1), values(3, 4, 5), positions(3, 4, 9)
    expected = scatter_add_tokens_by_loop(base.clone(), indices, update)
    assert torch.equal(scatter_add_tokens_(base, indices, update), expected)


def test_gradients_agree_with_finite_differences() -> None:
    indices = positions(2, 3, 5)
    base, update = values(2, 5, 2).requires_grad_(), values(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: gather_tokens(v, indices), base)
    assert torch.autograd.gradcheck(lambda b, u: scatter_add_tokens(b, indices, u), (base, update))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    indices, tokens = positions(2, 3, 5), values(2, 5, 4)
    gathered = gather_tokens(tokens.to(dtype), indices)
    assert gathered.dtype == dtype
    assert torch.equal(gathered, gather_tokens_by_loop(tokens.to(dtype), indices))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_scatter_adds_in_the_dtype_of_its_base(dtype: torch.dtype) -> None:
    base, update, indices = values(2, 5, 4).to(dtype), values(2, 3, 4).to(dtype), positions(2, 3, 5)
    ours = scatter_add_tokens(base, indices, update)
    assert ours.dtype == dtype
    assert torch.equal(ours, scatter_add_tokens_by_loop(base, indices, update))


def test_inputs_may_be_non_contiguous() -> None:
    indices = positions(4, 3, 3).t().contiguous().t()
    tokens, update = values(3, 4, 5).transpose(0, 1), values(4, 5, 3).transpose(1, 2)
    assert torch.equal(gather_tokens(tokens, indices), gather_tokens_by_loop(tokens, indices))
    assert torch.equal(
        scatter_add_tokens(tokens, indices, update),
        scatter_add_tokens_by_loop(tokens, indices, update),
    )


def test_a_gather_and_a_scatter_of_all_tokens_add_up() -> None:
    tokens = values(3, 6, 2)
    everyone = torch.arange(6).expand(3, 6)
    doubled = scatter_add_tokens(tokens, everyone, gather_tokens(tokens, everyone))
    assert torch.equal(doubled, 2 * tokens)


@pytest.mark.compile  # the graph alone: code generation takes long and is tested in soft_topk
def test_the_compiled_operators_give_equal_numbers() -> None:
    def carry(tokens: Tensor, pairs: Tensor, distances: Tensor, indices: Tensor) -> Tensor:
        chosen, bias = gather_tokens(tokens, indices), gather_relative_bias(distances, indices)
        mixed = (gather_pairs(pairs, indices) * bias).sum(1) @ chosen
        return scatter_add_tokens(tokens, indices, mixed)

    tokens, pairs = values(3, 9, 5).requires_grad_(), values(1, 2, 9, 9).requires_grad_()
    distances = values(1, 2, 17).requires_grad_()
    inputs = {"tokens": tokens, "pairs": pairs, "distances": distances}
    indices = positions(3, 4, 9)
    expected = carry(**inputs, indices=indices)
    compiled = torch.compile(carry, fullgraph=True, backend="aot_eager")
    ours = compiled(**inputs, indices=indices)
    torch.testing.assert_close(ours, expected)
    assert_gradients_agree(ours, expected, atol=None, rtol=None, **inputs)
