"""Gathers and the scatter against loops over single rows, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conditional_adapters.ops import (
    _parts,
    gather_pairs,
    gather_tokens,
    scatter_add_tokens,
    scatter_add_tokens_,
)

DTYPES = (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)


def positions(batch: int, k: int, seq: int) -> Tensor:
    """Draw distinct ascending positions for each row."""
    return torch.rand(batch, seq).argsort(-1)[:, :k].sort(-1).values


def values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (4 * torch.randn(*shape)).to(dtype)


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


def gather_pairs_by_loop(pairs: Tensor, indices: Tensor, *, all_keys: bool = False) -> Tensor:
    rows = []
    for row, chosen in enumerate(indices.tolist()):
        source = pairs[row if pairs.shape[0] > 1 else 0]
        queries = chosen if pairs.shape[2] > 1 else [0]
        keys = slice(None) if all_keys else chosen
        rows.append(torch.stack([source[:, query][:, keys] for query in queries], dim=1))
    return torch.stack(rows)


def assert_gradients_agree(ours: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        atol=1e-14,
        rtol=0,
    )


@pytest.mark.parametrize("rest", [(), (5,), (2, 3)])
@pytest.mark.parametrize("source", [1, 3])
def test_gather_tokens_agrees_with_a_loop(source: int, rest: tuple[int, ...]) -> None:
    tensor = values(source, 9, *rest).requires_grad_()
    indices = positions(3, 4, 9)
    ours, expected = gather_tokens(tensor, indices), gather_tokens_by_loop(tensor, indices)
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, [tensor])


@pytest.mark.parametrize("k", [1, 9])
def test_scatter_add_tokens_agrees_with_a_loop(k: int) -> None:
    base, update = values(3, 9, 5).requires_grad_(), values(3, k, 5).requires_grad_()
    before, indices = base.detach().clone(), positions(3, k, 9)
    ours = scatter_add_tokens(base, indices, update)
    expected = scatter_add_tokens_by_loop(base, indices, update)
    assert torch.equal(ours, expected)
    assert torch.equal(base, before)
    assert_gradients_agree(ours, expected, [base, update])


def test_scatter_add_tokens_in_place_adds_to_the_memory_of_its_base() -> None:
    leaf, update = values(3, 9, 5).requires_grad_(), values(3, 4, 5).requires_grad_()
    base, indices = leaf + 0, positions(3, 4, 9)
    ours = scatter_add_tokens_(base, indices, update)
    expected = scatter_add_tokens_by_loop(leaf, indices, update)
    assert ours.data_ptr() == base.data_ptr()
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, [leaf, update])


def test_scatter_add_tokens_in_place_takes_a_base_of_any_layout() -> None:
    base, update, indices = values(9, 3, 5).transpose(0, 1), values(3, 4, 5), positions(3, 4, 9)
    expected = scatter_add_tokens_by_loop(base.clone(), indices, update)
    assert torch.equal(scatter_add_tokens_(base, indices, update), expected)


@pytest.mark.parametrize("query", [1, 9])
@pytest.mark.parametrize("source", [1, 3])
def test_gather_pairs_agrees_with_a_loop(source: int, query: int) -> None:
    pairs = values(source, 2, query, 9).requires_grad_()
    indices = positions(3, 4, 9)
    ours, expected = gather_pairs(pairs, indices), gather_pairs_by_loop(pairs, indices)
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, [pairs])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("all_keys", [False, True])
@pytest.mark.parametrize("source", [1, 5])
@pytest.mark.parametrize("elements", [3, 17, 40, 100])  # a row has 32, or 72 with all keys
def test_pairs_of_a_long_batch_are_gathered_part_by_part(
    dtype: torch.dtype,
    all_keys: bool,
    source: int,
    elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_parts, "_ELEMENTS", elements)
    indices = positions(5, 4, 9)
    contiguous, strided = values(source, 2, 9, 9), values(9, 9, 2, source).permute(3, 2, 1, 0)
    for pairs in (contiguous.to(dtype), strided.to(dtype)):
        with torch.no_grad():
            ours = gather_pairs(pairs, indices, all_keys=all_keys)
        assert ours.dtype == dtype
        assert torch.equal(ours, gather_pairs_by_loop(pairs, indices, all_keys=all_keys))


class LargestIndex(TorchDispatchMode):
    """Notes how many elements are gathered at once."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.gather:
            self.num_elements = max(self.num_elements, args[2].numel())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("all_keys", [False, True])
def test_no_index_is_as_large_as_the_gathered_pairs(all_keys: bool) -> None:
    # `torch.gather` copies an index that heads share, 8 bytes for each element of the result.
    pairs, indices = torch.zeros(1, 4, 1024, 1024), positions(5, 512, 1024)
    with LargestIndex() as largest:
        gathered = gather_pairs(pairs, indices, all_keys=all_keys)
    assert 0 < largest.num_elements <= gathered.numel() / 4


def test_gather_pairs_of_a_single_token_sequence_keeps_its_shape() -> None:
    pairs = values(2, 3, 1, 1)
    assert torch.equal(gather_pairs(pairs, torch.zeros(2, 1, dtype=torch.int64)), pairs)


def test_gradients_agree_with_finite_differences() -> None:
    indices = positions(2, 3, 5)
    base, update = values(2, 5, 2).requires_grad_(), values(2, 3, 2).requires_grad_()
    pairs = values(1, 2, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: gather_tokens(v, indices), base)
    assert torch.autograd.gradcheck(lambda b, u: scatter_add_tokens(b, indices, u), (base, update))
    assert torch.autograd.gradcheck(lambda p: gather_pairs(p, indices), pairs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    indices, tokens, pairs = positions(2, 3, 5), values(2, 5, 4), values(2, 1, 5, 5)
    gathered = gather_tokens(tokens.to(dtype), indices)
    assert gathered.dtype == dtype
    assert torch.equal(gathered, gather_tokens_by_loop(tokens.to(dtype), indices))
    assert torch.equal(
        gather_pairs(pairs.to(dtype), indices), gather_pairs_by_loop(pairs.to(dtype), indices)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_scatter_adds_in_the_dtype_of_its_base(dtype: torch.dtype) -> None:
    base, update, indices = values(2, 5, 4).to(dtype), values(2, 3, 4).to(dtype), positions(2, 3, 5)
    ours = scatter_add_tokens(base, indices, update)
    assert ours.dtype == dtype
    assert torch.equal(ours, scatter_add_tokens_by_loop(base, indices, update))


def test_inputs_may_be_non_contiguous() -> None:
    indices = positions(4, 3, 3).t().contiguous().t()
    tokens, update = values(3, 4, 5).transpose(0, 1), values(4, 5, 3).transpose(1, 2)
    pairs = values(3, 4, 3, 2).permute(1, 3, 2, 0)
    assert torch.equal(gather_tokens(tokens, indices), gather_tokens_by_loop(tokens, indices))
    assert torch.equal(gather_pairs(pairs, indices), gather_pairs_by_loop(pairs, indices))
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
    def carry(tokens: Tensor, pairs: Tensor, indices: Tensor) -> Tensor:
        chosen = gather_tokens(tokens, indices)
        mixed = gather_pairs(pairs, indices).sum(1) @ chosen
        return scatter_add_tokens(tokens, indices, mixed)

    tokens, pairs = values(3, 9, 5).requires_grad_(), values(1, 2, 9, 9).requires_grad_()
    indices, cotangent = positions(3, 4, 9), values(3, 9, 5)
    expected = carry(tokens, pairs, indices)
    ours = torch.compile(carry, fullgraph=True, backend="aot_eager")(tokens, pairs, indices)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, [tokens, pairs], cotangent),
        torch.autograd.grad(expected, [tokens, pairs], cotangent),
    )
