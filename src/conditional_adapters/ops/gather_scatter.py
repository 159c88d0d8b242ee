"""Carry the chosen tokens to the heavy branch and its updates back.

Written with flat row indices: one index per token instead of one per element, which the CPU and
GPU kernels of `index_select` and `index_add` copy row by row.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ._backend import active_kernels


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


def _flat(selected_indices: Int[Tensor, "batch k"], seq: int) -> Int[Tensor, "batch k"]:
    """Turn positions within rows into positions in the flattened batch."""
    offsets = torch.arange(selected_indices.shape[0], device=selected_indices.device) * seq
    return selected_indices + offsets.unsqueeze(-1)
