"""Carry the chosen tokens to the heavy branch and its updates back.

Written with flat row indices: one index per token instead of one per element, which the CPU and
GPU kernels of `index_select` and `index_add` copy row by row.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ._backend import active_kernels
from ._parts import num_parts


def gather_tokens(
    values: Shaped[Tensor, "source seq *rest"], selected_indices: Int[Tensor, "batch k"]
) -> Shaped[Tensor, "batch k *rest"]:
    """Take the chosen tokens of each row: `out[b, i] = values[b, selected_indices[b, i]]`.

    Args:
        values: Anything with a token axis at 1, for example hidden states or rotary tables. A
            leading axis of 1 is shared by all rows.
        selected_indices: Positions in `[0, seq)`, distinct in each row.

    Returns:
        The rows, in the order of the indices. Differentiable in `values`.
    """
    batch, k = selected_indices.shape
    kernels = active_kernels()
    if kernels is not None and values.shape[0] == batch and values.is_floating_point():
        gathered: Tensor = kernels.gather_rows(
            values.reshape(batch, values.shape[1], -1), selected_indices
        )
        return gathered.view(batch, k, *values.shape[2:])
    flat = selected_indices if values.shape[0] == 1 else _flat(selected_indices, values.shape[1])
    rows = values.flatten(0, 1).index_select(0, flat.flatten())
    return rows.view(batch, k, *values.shape[2:])


def scatter_add_tokens(
    base: Float[Tensor, "batch seq hidden"],
    selected_indices: Int[Tensor, "batch k"],
    update: Float[Tensor, "batch k hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """Add updates to the chosen tokens: `base[b, selected_indices[b, i]] += update[b, i]`.

    Args:
        base: What every token keeps. Not changed.
        selected_indices: Positions in `[0, seq)`, distinct in each row.
        update: One row per chosen token, in the dtype of `base`.

    Returns:
        A new tensor of the shape of `base`. Differentiable in `base` and `update`.
    """
    return scatter_add_tokens_(base.clone(), selected_indices, update)


def scatter_add_tokens_(
    base: Float[Tensor, "batch seq hidden"],
    selected_indices: Int[Tensor, "batch k"],
    update: Float[Tensor, "batch k hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """Do as `scatter_add_tokens`, but in `base` itself, which no one else may need.

    Args:
        base: Overwritten if it is contiguous; otherwise it is copied first.
        selected_indices: Positions in `[0, seq)`, distinct in each row.
        update: One row per chosen token, in the dtype of `base`.

    Returns:
        The sum, in the memory of `base` if that is contiguous.
    """
    base = base.contiguous()
    flat = _flat(selected_indices, base.shape[1]).flatten()
    base.view(-1, base.shape[-1]).index_add_(0, flat, update.flatten(0, 1))
    return base


def add_weighted_update_(
    base: Float[Tensor, "batch seq hidden"],
    selected_indices: Int[Tensor, "batch k"],
    outputs: Float[Tensor, "batch k hidden"],
    inputs: Float[Tensor, "batch k hidden"],
    weights: Float[Tensor, "batch k"],
) -> Float[Tensor, "batch seq hidden"]:
    """Add what a layer changed about the chosen tokens, in `base` itself.

    `base[b, selected_indices[b, i]] += weights[b, i] * (outputs[b, i] - inputs[b, i])`

    Args:
        base: What every token keeps. Overwritten, unless it is not contiguous or a gradient is
            wanted and the kernels that are active have none for that.
        selected_indices: Positions in `[0, seq)`, distinct in each row.
        outputs: What the layer made of the chosen tokens, in the dtype of `base`.
        inputs: What the layer was given.
        weights: Routing weights, 0 where the slot is not selected.

    Returns:
        The sum. Differentiable in all but the indices.

    Source:
        The last term of equation 7, CoDA, arXiv:2304.04947.
    """
    kernels = active_kernels()
    if kernels is not None and base.dtype != torch.float64:
        add = kernels.add_weighted_update
        if not torch.is_grad_enabled():
            add = kernels.add_weighted_update_
        total: Tensor = add(base, selected_indices, outputs, inputs, weights)
        return total
    weights = weights.to(inputs.dtype).unsqueeze(-1)
    update = outputs - inputs
    update = update * weights if torch.is_grad_enabled() else update.mul_(weights)
    return scatter_add_tokens_(base, selected_indices, update)


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
    (batch, k), seq = selected_indices.shape, pairs.shape[-1]
    if (kernels := active_kernels()) is not None and _can_gather_at_once(pairs, all_keys):
        chosen: Tensor = kernels.gather_pairs(pairs, selected_indices)
        return chosen
    of_rows = pairs.expand(batch, -1, -1, -1)
    heads, num_queries = pairs.shape[1:3]
    keys = None if all_keys else selected_indices
    if num_queries == 1:
        return of_rows if keys is None else of_rows.gather(3, _for_heads(keys[:, None], heads))
    num_keys = seq if keys is None else k
    number = num_parts(batch * heads * k * num_keys, pairs.device)
    if number == 1:
        return _gather_queries(of_rows, selected_indices, keys)
    # At once, `torch.gather` would make a copy of the indices with 8 bytes for each element.
    # Flattened here, so that values which that copies are copied once, not for each part and row.
    of_rows = pairs.flatten(2).view(pairs.shape).expand_as(of_rows)
    out = pairs.new_empty(batch, heads, k, num_keys)
    rows, queries = max(batch // number, 1), max(batch * k // number, 1)
    for start in range(0, batch, rows):
        part = slice(start, start + rows)
        chosen = selected_indices[part]
        chosen_keys = None if all_keys else chosen
        for first in range(0, k, queries):
            query = slice(first, first + queries)
            _gather_queries(of_rows[part], chosen[:, query], chosen_keys, out=out[part, :, query])
    return out


def _gather_queries(
    pairs: Shaped[Tensor, "batch heads query seq"],
    queries: Int[Tensor, "batch q"],
    keys: Int[Tensor, "batch k"] | None,
    out: Shaped[Tensor, "batch heads q key"] | None = None,
) -> Shaped[Tensor, "batch heads q key"]:
    """Take some queries and some keys, or all keys; into `out`, if there is one."""
    heads, seq = pairs.shape[1], pairs.shape[-1]
    if keys is None:
        rows = _for_heads(queries[:, :, None], heads).expand(-1, -1, -1, seq)
        return torch.gather(pairs, 2, rows, out=out)
    flat = queries[:, :, None] * seq + keys[:, None]
    chosen = torch.gather(
        pairs.flatten(2),
        2,
        _for_heads(flat, heads).flatten(2),
        out=None if out is None else out.flatten(2),  # a view
    )
    return chosen.view(*chosen.shape[:2], *flat.shape[1:])


def _for_heads(
    indices: Int[Tensor, "batch query key"], heads: int
) -> Int[Tensor, "batch heads query key"]:
    """Let all heads have the same indices."""
    return indices[:, None].expand(-1, heads, -1, -1)


def _can_gather_at_once(pairs: Tensor, all_keys: bool) -> bool:
    """Tell whether the kernels have what is wanted: both axes, no gradient, no mask."""
    needs_gradient = torch.is_grad_enabled() and pairs.requires_grad
    return not all_keys and pairs.shape[2] > 1 and pairs.is_floating_point() and not needs_gradient


def _flat(selected_indices: Int[Tensor, "batch k"], seq: int) -> Int[Tensor, "batch k"]:
    """Turn positions within rows into positions in the flattened batch."""
    offsets = torch.arange(selected_indices.shape[0], device=selected_indices.device) * seq
    return selected_indices + offsets.unsqueeze(-1)
