"""What belongs to pairs of chosen tokens, against loops over single rows, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conditional_adapters.ops import (
    _chunks,
    expand_relative_bias,
    gather_pairs,
    gather_relative_bias,
    relative_bias,
)
from tests.helpers.draws import DTYPES, positions, values
from tests.helpers.gradients import assert_gradients_agree

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def gather_pairs_by_loop(pairs: Tensor, indices: Tensor, *, all_keys: bool = False) -> Tensor:
    rows = []
    for row, chosen in enumerate(indices.tolist()):
        source = pairs[row if pairs.shape[0] > 1 else 0]
        queries = chosen if pairs.shape[2] > 1 else [0]
        keys = slice(None) if all_keys else chosen
        rows.append(torch.stack([source[:, query][:, keys] for query in queries], dim=1))
    return torch.stack(rows)


def spread_by_loop(distances: Tensor) -> Tensor:
    seq = (distances.shape[-1] + 1) // 2
    rows = [
        torch.stack([distances[..., seq - 1 + key - query] for key in range(seq)], dim=-1)
        for query in range(seq)
    ]
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("query", [1, 9])
@pytest.mark.parametrize("source", [1, 3])
def test_gather_pairs_agrees_with_a_loop(source: int, query: int) -> None:
    pairs = values(source, 2, query, 9).requires_grad_()
    indices = positions(3, 4, 9)
    ours, expected = gather_pairs(pairs, indices), gather_pairs_by_loop(pairs, indices)
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, pairs=pairs)


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
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", elements)
    indices = positions(5, 4, 9)
    contiguous, strided = values(source, 2, 9, 9), values(9, 9, 2, source).permute(3, 2, 1, 0)
    for pairs in (contiguous.to(dtype), strided.to(dtype)):
        with torch.no_grad():
            ours = gather_pairs(pairs, indices, all_keys=all_keys)
        assert ours.dtype == dtype
        assert torch.equal(ours, gather_pairs_by_loop(pairs, indices, all_keys=all_keys))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("all_keys", [False, True])
@pytest.mark.parametrize("source", [1, 5])
@pytest.mark.parametrize("elements", [3, 17, 40, 10**6])  # the last: all at once
def test_a_bias_by_distance_is_gathered_as_that_of_all_pairs(
    dtype: torch.dtype,
    all_keys: bool,
    source: int,
    elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", elements)
    contiguous, strided = values(source, 2, 17), values(17, 2, source).permute(2, 1, 0)
    for k in (1, 4, 9):
        indices = positions(5, k, 9)
        for distances in (contiguous.to(dtype), strided.to(dtype)):
            ours = gather_relative_bias(distances, indices, all_keys=all_keys)
            pairs = spread_by_loop(distances)
            assert ours.dtype == dtype
            assert ours.is_contiguous()
            assert torch.equal(ours, gather_pairs_by_loop(pairs, indices, all_keys=all_keys))


@pytest.mark.parametrize("all_keys", [False, True])
@pytest.mark.parametrize("source", [1, 3])
def test_gradients_reach_the_distances(
    source: int, all_keys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 10)  # chunks have no gradient
    distances, indices = values(source, 2, 17).requires_grad_(), positions(3, 4, 9)
    ours = gather_relative_bias(distances, indices, all_keys=all_keys)
    expected = gather_pairs_by_loop(spread_by_loop(distances), indices, all_keys=all_keys)
    assert torch.equal(ours, expected)
    assert_gradients_agree(ours, expected, distances=distances)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seq", [1, 2, 9])
def test_distances_and_pairs_turn_into_each_other(seq: int, dtype: torch.dtype) -> None:
    distances = values(3, 2, 2 * seq - 1, dtype=dtype)
    pairs = expand_relative_bias(distances)
    assert pairs.is_contiguous()
    assert torch.equal(pairs, spread_by_loop(distances))
    assert torch.equal(relative_bias(pairs), distances)
    heads_last = distances.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(expand_relative_bias(heads_last), pairs)


@pytest.mark.compile
def test_a_graph_gives_each_pair_its_distance() -> None:
    spread = torch.compile(expand_relative_bias, fullgraph=True, backend="eager", dynamic=True)
    for seq in (2, 9):
        distances = values(3, 2, 2 * seq - 1)
        assert torch.equal(spread(distances), spread_by_loop(distances))


class LargestIndex(TorchDispatchMode):
    """Notes how many elements are gathered at once."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.gather:
            self.num_elements = max(self.num_elements, args[2].numel())
        return func(*args, **(kwargs or {}))


# `torch.gather` copies an index that heads share, 8 bytes for each element of the result. A frozen
# bias has no gradient in training either.
@pytest.mark.parametrize("all_keys", [False, True])
@pytest.mark.parametrize(
    "gather, shape",
    [(gather_pairs, (1, 4, 1024, 1024)), (gather_relative_bias, (1, 4, 2047))],
    ids=["pairs", "distances"],
)
def test_no_index_is_as_large_as_what_is_gathered(gather, shape, all_keys: bool) -> None:
    with LargestIndex() as largest:
        gathered = gather(torch.zeros(shape), positions(5, 512, 1024), all_keys=all_keys)
    assert 0 < largest.num_elements <= gathered.numel() / 4


def test_gather_pairs_of_a_single_token_sequence_keeps_its_shape() -> None:
    pairs = values(2, 3, 1, 1)
    assert torch.equal(gather_pairs(pairs, torch.zeros(2, 1, dtype=torch.int64)), pairs)


def test_gradients_agree_with_finite_differences() -> None:
    indices, pairs = positions(2, 3, 5), values(1, 2, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: gather_pairs(p, indices), pairs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    indices, pairs = positions(2, 3, 5), values(2, 1, 5, 5).to(dtype)
    assert torch.equal(gather_pairs(pairs, indices), gather_pairs_by_loop(pairs, indices))


def test_inputs_may_be_non_contiguous() -> None:
    indices = positions(4, 3, 3).t().contiguous().t()
    pairs = values(3, 4, 3, 2).permute(1, 3, 2, 0)
    assert torch.equal(gather_pairs(pairs, indices), gather_pairs_by_loop(pairs, indices))
