"""Position biases of pairs of chosen tokens: one program per block of queries of a head."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import on_device_of

_BLOCK, _BLOCK_QUERIES = 128, 16  # keys and queries of a program


def gather_pairs(pairs: Tensor, selected_indices: Tensor) -> Tensor:
    """Take the chosen tokens on both axes. No gradient.

    Args:
        pairs: `[batch or 1, heads, seq, seq]`, any floating dtype.
        selected_indices: `[batch, k]`.

    Returns:
        `[batch, heads, k, k]`.
    """
    chosen: Tensor = _gather_pairs(pairs.contiguous(), selected_indices.contiguous())
    return chosen


@triton.jit
def _gather_pairs_kernel(
    values, indices, out, seq, heads, top_k, source_rows,
    BLOCK: tl.constexpr, BLOCK_QUERIES: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(0).to(tl.int64)  # of a head of a row
    row, head = matrix // heads, matrix % heads
    queries = tl.program_id(1) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    keys = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    query_places = tl.load(indices + row * top_k + queries, mask=queries < top_k, other=0)
    key_places = tl.load(indices + row * top_k + keys, mask=keys < top_k, other=0)
    # Rows beyond those of the source share its last.
    source = (tl.minimum(row, source_rows - 1) * heads + head) * seq
    places = (source + query_places)[:, None] * seq + key_places[None, :]
    exist = (queries < top_k)[:, None] & (keys < top_k)[None, :]
    chosen = tl.load(values + places, mask=exist)
    tl.store(out + (matrix * top_k + queries)[:, None] * top_k + keys[None, :], chosen, mask=exist)


@torch.library.custom_op("conditional_adapters::gather_pairs", mutates_args=())
def _gather_pairs(pairs: Tensor, selected_indices: Tensor) -> Tensor:
    with on_device_of(pairs):
        (batch, top_k), (source, heads, _, seq) = selected_indices.shape, pairs.shape
        out = pairs.new_empty(batch, heads, top_k, top_k)
        if out.numel():
            grid = (
                batch * heads,
                triton.cdiv(top_k, _BLOCK_QUERIES),
                triton.cdiv(top_k, _BLOCK),
            )
            _gather_pairs_kernel[grid](
                pairs, selected_indices, out, seq, heads, top_k, source,
                BLOCK=_BLOCK, BLOCK_QUERIES=_BLOCK_QUERIES,
            )  # fmt: skip
    return out


@_gather_pairs.register_fake
def _(pairs: Tensor, selected_indices: Tensor) -> Tensor:
    batch, top_k = selected_indices.shape
    return pairs.new_empty(batch, pairs.shape[1], top_k, top_k)
