"""The router's scores: the product of each token with one vector, in float32."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._backend import active_kernels


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
    is_half = states.dtype != torch.float32
    with torch.autocast(states.device.type, enabled=False):
        # A matrix-vector product would round equal tokens differently, by their place.
        if is_half and states.device.type == "cpu" and not torch.is_grad_enabled():
            products = states.float().mul_(weight.float())  # in half the time here
        else:
            # Widened within the product, without a copy for the backward pass to keep.
            products = states * weight.float()
        return products.sum(-1)
