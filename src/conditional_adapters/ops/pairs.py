"""Gather masks and position biases, which have values per (query, key) pair, for selected tokens.

A relative position bias is the same for all pairs of one distance: a lookup table of `2 seq - 1`
values has the bias of `seq * seq` pairs, and stays in cache.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from . import _backend
from ._chunks import is_tracing, num_chunks

# `gather(values, queries, keys, out)`, for some examples and queries, into `out` if it is given.
_Gather = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def gather_pairs(
    pairs: Shaped[Tensor, "source heads query seq"],
    selected_indices: Int[Tensor, "batch k"],
    *,
    all_keys: bool = False,
) -> Shaped[Tensor, "batch heads selected_query key"]:
    """Gather the selected tokens on both axes of an attention mask or position bias.

    Args:
        pairs: Values per (query, key) pair. The axes `source` and `query` may be 1 (shared by all
            examples, or by all queries); a query axis of 1 stays 1.
        selected_indices: Positions in `[0, seq)`.
        all_keys: Gather queries only.

    Returns:
        `out[b, h, i, j] = pairs[b, h, selected_indices[b, i], selected_indices[b, j]]`, or with
        `all_keys` `pairs[b, h, selected_indices[b, i], j]`. Differentiable in `pairs`.
    """
    kernels = _backend.kernels
    if kernels is not None and _has_kernel(pairs, all_keys):
        gathered: Tensor = kernels.gather_pairs(pairs, selected_indices)
        return gathered
    if pairs.shape[2] == 1:
        expanded = pairs.expand(selected_indices.shape[0], -1, -1, -1)
        return expanded if all_keys else _look_up(expanded[:, :, 0], selected_indices[:, None])
    keys = _keys(selected_indices, pairs.shape[-1], all_keys)
    return _in_chunks(_gather_pairs, pairs, selected_indices, keys)


def relative_bias(
    pairs: Float[Tensor, "source heads seq seq"],
) -> Float[Tensor, "source heads distances"]:
    """Reduce a relative position bias to its values per distance.

    Args:
        pairs: The bias of all pairs of tokens.

    Returns:
        `out[b, h, seq - 1 + key - query] = pairs[b, h, query, key]`, `2 seq - 1` distances.
        Differentiable in the first query and the first key, which have them all.
    """
    return torch.cat([pairs[:, :, 1:, 0].flip(-1), pairs[:, :, 0]], dim=-1)


def expand_relative_bias(
    distances: Float[Tensor, "*heads distances"],
) -> Float[Tensor, "*heads seq seq"]:
    """Expand values per distance to all pairs of tokens; the inverse of `relative_bias`.

    Args:
        distances: Values of `2 seq - 1` distances `key - query`, ascending.

    Returns:
        The bias of all pairs, contiguous. Differentiable in `distances`.
    """
    seq = (distances.shape[-1] + 1) // 2
    if is_tracing():  # the length may be symbolic
        positions = torch.arange(seq, device=distances.device)
        return distances[..., positions - positions[:, None] + seq - 1]
    return distances.contiguous().unfold(-1, seq, 1).flip(-2)  # a query's row is a window


def gather_relative_bias(
    distances: Float[Tensor, "source heads distances"],
    selected_indices: Int[Tensor, "batch k"],
    *,
    all_keys: bool = False,
) -> Float[Tensor, "batch heads k key"]:
    """Look up the bias of each pair of selected tokens by its distance in the whole sequence.

    Args:
        distances: Values of `2 seq - 1` distances `key - query`, ascending. A leading axis of 1 is
            shared by all examples.
        selected_indices: Positions in `[0, seq)`.
        all_keys: Gather queries only.

    Returns:
        `gather_pairs` of the bias of all pairs. Differentiable in `distances`.
    """
    keys = _keys(selected_indices, (distances.shape[-1] + 1) // 2, all_keys)
    return _in_chunks(_gather_distances, distances, selected_indices, keys)


def prefers_distances() -> bool:
    """Whether relative position biases are faster to gather by distance.

    Triton kernels gather pairs.
    """
    return _backend.kernels is None


def _keys(
    selected_indices: Int[Tensor, "batch k"], seq: int, all_keys: bool
) -> Int[Tensor, "batch key"]:
    """Return the positions of the keys of each example."""
    if not all_keys:
        return selected_indices
    return torch.arange(seq, device=selected_indices.device).expand(selected_indices.shape[0], -1)


def _gather_pairs(
    pairs: Shaped[Tensor, "batch heads query seq"],
    queries: Int[Tensor, "batch q"],
    keys: Int[Tensor, "batch k"],
    out: Shaped[Tensor, "batch heads q k"] | None,
) -> Shaped[Tensor, "batch heads q k"]:
    """Gather some queries and some keys."""
    return _look_up(pairs.flatten(2), queries[:, :, None] * pairs.shape[-1] + keys[:, None], out)


def _gather_distances(
    distances: Shaped[Tensor, "batch heads distances"],
    queries: Int[Tensor, "batch q"],
    keys: Int[Tensor, "batch k"],
    out: Shaped[Tensor, "batch heads q k"] | None,
) -> Shaped[Tensor, "batch heads q k"]:
    """Look up the distances of some queries and some keys."""
    indices = keys[:, None] - queries[:, :, None] + distances.shape[-1] // 2
    return _look_up(distances, indices, out)


def _look_up(
    table: Shaped[Tensor, "batch heads entries"],
    indices: Int[Tensor, "batch q k"],
    out: Shaped[Tensor, "batch heads q k"] | None = None,
) -> Shaped[Tensor, "batch heads q k"]:
    """Look up the same entries for each head."""
    of_heads = indices.flatten(1)[:, None].expand(-1, table.shape[1], -1)
    flat_out = None if out is None else out.flatten(2)  # a view
    entries = torch.gather(table, 2, of_heads, out=flat_out)
    return entries.view(*entries.shape[:2], *indices.shape[1:])


def _in_chunks(
    gather: _Gather,
    values: Shaped[Tensor, "source heads *rest"],
    queries: Int[Tensor, "batch k"],
    keys: Int[Tensor, "batch key"],
) -> Shaped[Tensor, "batch heads k key"]:
    """Gather chunk by chunk, so that indices and result stay in cache.

    Otherwise `torch.gather` would copy the indices, with 8 bytes for each element.
    """
    (batch, k), heads = queries.shape, values.shape[1]
    num_elements = batch * heads * k * keys.shape[1]
    number = num_chunks(num_elements, values.device, needs_gradient=_needs_gradient(values))
    if number == 1:
        return gather(values.expand(batch, *values.shape[1:]), queries, keys, None)
    # Flattened once: it may copy the values.
    values = values.flatten(2).view(values.shape).expand(batch, *values.shape[1:])
    dtype = values.dtype
    if dtype in (torch.bfloat16, torch.float16):  # `torch.gather` takes a third longer for them
        values = values.view(torch.int16)
    out = values.new_empty(batch, heads, k, keys.shape[1])
    num_examples, num_queries = max(batch // number, 1), max(batch * k // number, 1)
    for start in range(0, batch, num_examples):
        examples = slice(start, start + num_examples)
        for first in range(0, k, num_queries):
            some = slice(first, first + num_queries)
            gather(
                values[examples], queries[examples, some], keys[examples], out[examples, :, some]
            )
    return out.view(dtype)


def _has_kernel(pairs: Tensor, all_keys: bool) -> bool:
    """Whether a kernel gathers this: both axes, no gradient, no mask."""
    has_both_axes = not all_keys and pairs.shape[2] > 1
    return has_both_axes and pairs.is_floating_point() and not _needs_gradient(pairs)


def _needs_gradient(values: Tensor) -> bool:
    return torch.is_grad_enabled() and values.requires_grad
