"""Reduce what belongs to pairs of tokens, masks and position biases, to the chosen ones.

A relative position bias is the same for all pairs of one distance: `2 seq - 1` values say what
`seq * seq` pairs have, and stay in a cache while each pair looks its own up.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ._backend import active_kernels
from ._parts import is_recorded, num_parts

# `gather(values, queries, keys, out)`: of some rows, for some queries, in `out` if there is one.
_Gather = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def gather_pairs(
    pairs: Shaped[Tensor, "source heads query seq"],
    selected_indices: Int[Tensor, "batch k"],
    *,
    all_keys: bool = False,
) -> Shaped[Tensor, "batch heads selected_query key"]:
    """Take the chosen tokens on both axes of an attention mask or position bias.

    Args:
        pairs: Values per (query, key) pair. The axes `source` and `query` may be 1 (shared by all
            rows of the batch, or by all queries); a query axis of 1 stays 1.
        selected_indices: Positions in `[0, seq)`.
        all_keys: Take the chosen tokens as queries only.

    Returns:
        `out[b, h, i, j] = pairs[b, h, selected_indices[b, i], selected_indices[b, j]]`, or with
        `all_keys` `pairs[b, h, selected_indices[b, i], j]`. Differentiable in `pairs`.
    """
    if (kernels := active_kernels()) is not None and _can_gather_at_once(pairs, all_keys):
        chosen: Tensor = kernels.gather_pairs(pairs, selected_indices)
        return chosen
    if pairs.shape[2] == 1:
        of_rows = pairs.expand(selected_indices.shape[0], -1, -1, -1)
        return of_rows if all_keys else _look_up(of_rows[:, :, 0], selected_indices[:, None])
    keys = _keys(selected_indices, pairs.shape[-1], all_keys)
    return _by_parts(_gather_pairs, pairs, selected_indices, keys)


def relative_bias(
    pairs: Float[Tensor, "source heads seq seq"],
) -> Float[Tensor, "source heads distances"]:
    """Read the values of all distances off a bias that depends on them alone.

    Args:
        pairs: The bias of all pairs of tokens.

    Returns:
        `out[b, h, seq - 1 + key - query] = pairs[b, h, query, key]`, `2 seq - 1` distances.
        Differentiable in the first query and the first key, which hold them all.
    """
    return torch.cat([pairs[:, :, 1:, 0].flip(-1), pairs[:, :, 0]], dim=-1)


def spread_relative_bias(
    distances: Float[Tensor, "*heads distances"],
) -> Float[Tensor, "*heads seq seq"]:
    """Give each pair of tokens the value of its distance; the inverse of `relative_bias`.

    Args:
        distances: Values of `2 seq - 1` distances `key - query`, ascending.

    Returns:
        The bias of all pairs, contiguous. Differentiable in `distances`.
    """
    seq = (distances.shape[-1] + 1) // 2
    if is_recorded():  # where the length may be unknown
        positions = torch.arange(seq, device=distances.device)
        return distances[..., positions - positions[:, None] + seq - 1]
    return distances.contiguous().unfold(-1, seq, 1).flip(-2)  # rows are windows


def gather_relative_bias(
    distances: Float[Tensor, "source heads distances"],
    selected_indices: Int[Tensor, "batch k"],
    *,
    all_keys: bool = False,
) -> Float[Tensor, "batch heads k key"]:
    """Give each pair of chosen tokens the value of its distance in the whole sequence.

    Args:
        distances: Values of `2 seq - 1` distances `key - query`, ascending. A leading axis of 1 is
            shared by all rows.
        selected_indices: Positions in `[0, seq)`.
        all_keys: Take the chosen tokens as queries only.

    Returns:
        What `gather_pairs` would return for the bias of all pairs. Differentiable in `distances`.
    """
    keys = _keys(selected_indices, (distances.shape[-1] + 1) // 2, all_keys)
    return _by_parts(_gather_distances, distances, selected_indices, keys)


def _keys(
    selected_indices: Int[Tensor, "batch k"], seq: int, all_keys: bool
) -> Int[Tensor, "batch key"]:
    """Return the positions of the keys of each row."""
    if not all_keys:
        return selected_indices
    return torch.arange(seq, device=selected_indices.device).expand(selected_indices.shape[0], -1)


def _gather_pairs(
    pairs: Shaped[Tensor, "batch heads query seq"],
    queries: Int[Tensor, "batch q"],
    keys: Int[Tensor, "batch k"],
    out: Shaped[Tensor, "batch heads q k"] | None,
) -> Shaped[Tensor, "batch heads q k"]:
    """Take some queries and some keys."""
    return _look_up(pairs.flatten(2), queries[:, :, None] * pairs.shape[-1] + keys[:, None], out)


def _gather_distances(
    distances: Shaped[Tensor, "batch heads distances"],
    queries: Int[Tensor, "batch q"],
    keys: Int[Tensor, "batch k"],
    out: Shaped[Tensor, "batch heads q k"] | None,
) -> Shaped[Tensor, "batch heads q k"]:
    """Take the distances of some queries and some keys."""
    places = keys[:, None] - queries[:, :, None] + distances.shape[-1] // 2
    return _look_up(distances, places, out)


def _look_up(
    table: Shaped[Tensor, "batch heads entries"],
    places: Int[Tensor, "batch q k"],
    out: Shaped[Tensor, "batch heads q k"] | None = None,
) -> Shaped[Tensor, "batch heads q k"]:
    """Take the same entries of each head."""
    of_heads = places.flatten(1)[:, None].expand(-1, table.shape[1], -1)
    flat_out = None if out is None else out.flatten(2)  # a view
    chosen = torch.gather(table, 2, of_heads, out=flat_out)
    return chosen.view(*chosen.shape[:2], *places.shape[1:])


def _by_parts(
    gather: _Gather,
    values: Shaped[Tensor, "source heads *rest"],
    queries: Int[Tensor, "batch k"],
    keys: Int[Tensor, "batch key"],
) -> Shaped[Tensor, "batch heads k key"]:
    """Gather so much at once that indices and result stay in cache.

    At once, `torch.gather` would make a copy of the indices with 8 bytes for each element.
    """
    (batch, k), heads = queries.shape, values.shape[1]
    num_elements = batch * heads * k * keys.shape[1]
    number = num_parts(num_elements, values.device, needs_gradient=_needs_gradient(values))
    if number == 1:
        return gather(values.expand(batch, *values.shape[1:]), queries, keys, None)
    # Flattened here, so that values which that copies are copied once, not for each part and row.
    values = values.flatten(2).view(values.shape).expand(batch, *values.shape[1:])
    dtype = values.dtype
    if dtype in (torch.bfloat16, torch.float16):  # `torch.gather` takes a third longer for them
        values = values.view(torch.int16)
    out = values.new_empty(batch, heads, k, keys.shape[1])
    rows, per_part = max(batch // number, 1), max(batch * k // number, 1)
    for start in range(0, batch, rows):
        part = slice(start, start + rows)
        for first in range(0, k, per_part):
            some = slice(first, first + per_part)
            gather(values[part], queries[part, some], keys[part], out[part, :, some])
    return out.view(dtype)


def _can_gather_at_once(pairs: Tensor, all_keys: bool) -> bool:
    """Tell whether the kernels have what is wanted: both axes, no gradient, no mask."""
    is_wanted = not all_keys and pairs.shape[2] > 1
    return is_wanted and pairs.is_floating_point() and not _needs_gradient(pairs)


def _needs_gradient(values: Tensor) -> bool:
    return torch.is_grad_enabled() and values.requires_grad
