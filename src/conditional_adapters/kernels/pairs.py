"""Position biases of pairs of selected tokens, one program per head and block of queries."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import on_device_of

_BLOCK_KEYS, _BLOCK_QUERIES = 128, 16


@torch.library.custom_op("conditional_adapters::gather_pairs", mutates_args=())
def gather_pairs(pairs: Tensor, selected_indices: Tensor) -> Tensor:
    """Gather the selected tokens on both axes, without gradient."""
    with on_device_of(pairs):
        (batch, top_k), (num_sources, heads, _, seq) = selected_indices.shape, pairs.shape
        out = pairs.new_empty(batch, heads, top_k, top_k)
        if out.numel():
            grid = (
                batch * heads, triton.cdiv(top_k, _BLOCK_QUERIES), triton.cdiv(top_k, _BLOCK_KEYS)
            )  # fmt: skip
            _gather_pairs_kernel[grid](
                pairs.contiguous(), selected_indices.contiguous(), out,
                seq, heads, top_k, num_sources,
                BLOCK_QUERIES=_BLOCK_QUERIES, BLOCK=_BLOCK_KEYS,
            )  # fmt: skip
    return out


@gather_pairs.register_fake
def _(pairs: Tensor, selected_indices: Tensor) -> Tensor:
    batch, top_k = selected_indices.shape
    return pairs.new_empty(batch, pairs.shape[1], top_k, top_k)


@triton.jit
def _gather_pairs_kernel(
    values, indices, out, seq, heads, top_k, num_sources,
    BLOCK_QUERIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(0).to(tl.int64)  # one per example and head
    example, head = matrix // heads, matrix % heads
    queries = tl.program_id(1) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    keys = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    query_indices = tl.load(indices + example * top_k + queries, mask=queries < top_k, other=0)
    key_indices = tl.load(indices + example * top_k + keys, mask=keys < top_k, other=0)
    # All examples share a source of 1.
    source = (tl.minimum(example, num_sources - 1) * heads + head) * seq
    offsets = (source + query_indices)[:, None] * seq + key_indices[None, :]
    exists = (queries < top_k)[:, None] & (keys < top_k)[None, :]
    selected = tl.load(values + offsets, mask=exists)
    out_offsets = (matrix * top_k + queries)[:, None] * top_k + keys[None, :]
    tl.store(out + out_offsets, selected, mask=exists)
