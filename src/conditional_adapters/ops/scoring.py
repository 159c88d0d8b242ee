"""The router's scores: the product of each token with one vector, in float32."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._backend import active_kernels
from ._parts import num_parts


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
        if torch.is_grad_enabled() or states.device.type != "cpu":
            # Half precision is widened within the product, without a copy for the backward pass.
            return (states * weight.float()).sum(-1)
        number, weight = num_parts(states.numel(), states.device), weight.float()
        if number == 1:
            return _widened_product(states, weight).sum(-1)
        parts = states.chunk(number, dim=1)
        return torch.cat([_widened_product(part, weight).sum(-1) for part in parts], dim=1)


def _widened_product(states: Tensor, weight: Tensor) -> Tensor:
    # Types mixed in one product would go through two wide copies here.
    return states * weight if states.dtype == torch.float32 else states.float().mul_(weight)
