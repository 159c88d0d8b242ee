"""The router's scores: the product of each token with one vector, in float32."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._backend import active_kernels

# Elements of a part, about: 4 MiB in float32. Their products stay in cache until they are summed,
# and in memory that an allocator keeps; fresh pages for a long batch would take longer than that.
_BLOCK = 2**20


def score_tokens(
    states: Float[Tensor, "batch seq hidden"], weight: Float[Tensor, "*rows hidden"]
) -> Float[Tensor, "batch seq"]:
    """Return the scores of tokens in float32, whatever their type, with autocast off.

    Args:
        states: What the router reads.
        weight: One vector, `[hidden]`, or one for each row of the batch, `[batch, 1, hidden]`.

    Returns:
        `states @ weight`. Equal tokens have equal scores, wherever they stand.
    """
    kernels = active_kernels()
    if kernels is not None and states.dtype != torch.float64 and not torch.is_grad_enabled():
        in_one_pass: Tensor = kernels.score(states, weight)
        return in_one_pass
    if states.dtype == torch.float64:
        states = states.float()
    with torch.autocast(states.device.type, enabled=False):
        # A matrix-vector product would round equal tokens differently, by their place.
        if not _can_part(states):
            # Half precision is widened within the product, without a copy for the backward pass.
            return (states * weight.float()).sum(-1)
        parts = states.chunk(states.numel() // _BLOCK + 1, dim=1)
        scores = [_widened_product(part, weight.float()).sum(-1) for part in parts]
        return scores[0] if len(scores) == 1 else torch.cat(scores, dim=1)


def _can_part(states: Tensor) -> bool:
    """Tell whether to go part by part: on a CPU, with neither a gradient nor a graph wanted."""
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return states.device.type == "cpu" and not torch.is_grad_enabled() and not is_recorded


def _widened_product(states: Tensor, weight: Tensor) -> Tensor:
    # Types mixed in one product would go through two wide copies here.
    return states * weight if states.dtype == torch.float32 else states.float().mul_(weight)
