"""Gather the selected tokens for the frozen layer, and add its updates back.

With indices into the flattened batch, one per token instead of one per element, `index_select` and
`index_add` copy whole tokens on CPUs and GPUs.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from . import _backend


def gather_tokens(
    values: Shaped[Tensor, "source seq *rest"], selected_indices: Int[Tensor, "batch k"]
) -> Shaped[Tensor, "batch k *rest"]:
    """Gather the selected tokens of each example: `out[b, i] = values[b, selected_indices[b, i]]`.

    Args:
        values: Anything with a token axis at 1, for example hidden states or rotary tables. A
            leading axis of 1 is shared by all examples.
        selected_indices: Positions in `[0, seq)`, distinct in each example.

    Returns:
        The tokens, in the order of the indices. Differentiable in `values`.
    """
    batch, k = selected_indices.shape
    kernels = _backend.kernels
    if kernels is not None and values.shape[0] == batch and values.is_floating_point():
        gathered: Tensor = kernels.gather_tokens(
            values.reshape(batch, values.shape[1], -1), selected_indices
        )
        return gathered.view(batch, k, *values.shape[2:])
    flat = selected_indices if values.shape[0] == 1 else _flat(selected_indices, values.shape[1])
    tokens = values.flatten(0, 1).index_select(0, flat.flatten())
    return tokens.view(batch, k, *values.shape[2:])


def scatter_add_tokens(
    base: Float[Tensor, "batch seq hidden"],
    selected_indices: Int[Tensor, "batch k"],
    update: Float[Tensor, "batch k hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """Add updates to the selected tokens: `base[b, selected_indices[b, i]] += update[b, i]`.

    Args:
        base: States of all tokens. Not changed.
        selected_indices: Positions in `[0, seq)`, distinct in each example.
        update: One vector per selected token, in the dtype of `base`.

    Returns:
        A new tensor of the shape of `base`. Differentiable in `base` and `update`.
    """
    return scatter_add_tokens_(base.clone(), selected_indices, update)


def scatter_add_tokens_(
    base: Float[Tensor, "batch seq hidden"],
    selected_indices: Int[Tensor, "batch k"],
    update: Float[Tensor, "batch k hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """In-place form of `scatter_add_tokens`.

    Args:
        base: States of all tokens. Overwritten if contiguous, copied first otherwise.
        selected_indices: Positions in `[0, seq)`, distinct in each example.
        update: One vector per selected token, in the dtype of `base`.

    Returns:
        The sum, in the memory of `base` if that is contiguous.
    """
    tokens = base.contiguous().view(-1, base.shape[-1])
    tokens.index_add_(0, _flat(selected_indices, base.shape[1]).flatten(), update.flatten(0, 1))
    # NOTE: the view that was modified. `base` would be a stale view, and a hook on its gradient, as
    # of Grad-CAM or FSDP2, would crash the process.
    return tokens.view(base.shape)


def add_weighted_update_(
    base: Float[Tensor, "batch seq hidden"],
    selected_indices: Int[Tensor, "batch k"],
    outputs: Float[Tensor, "batch k hidden"],
    inputs: Float[Tensor, "batch k hidden"],
    weights: Float[Tensor, "batch k"],
) -> Float[Tensor, "batch seq hidden"]:
    """Add the weighted updates of a layer to the selected tokens, in place.

    `base[b, selected_indices[b, i]] += weights[b, i] * (outputs[b, i] - inputs[b, i])`

    Args:
        base: States of all tokens. Overwritten, unless it is not contiguous or the active kernels
            need a copy for the gradient.
        selected_indices: Positions in `[0, seq)`, distinct in each example.
        outputs: Output of the layer for the selected tokens, in the dtype of `base`.
        inputs: Input of the layer.
        weights: Routing weights, 0 where the slot is not selected.

    Returns:
        The sum. Differentiable in all but the indices.

    Source:
        The last term of equation 7, CoDA, arXiv:2304.04947.
    """
    kernels = _backend.kernels
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
    """Turn positions within examples into positions in the flattened batch."""
    offsets = torch.arange(selected_indices.shape[0], device=selected_indices.device) * seq
    return selected_indices + offsets.unsqueeze(-1)
