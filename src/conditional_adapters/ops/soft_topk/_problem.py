"""Common input of both soft top-k methods."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Problem(NamedTuple):
    """Masked scores and the budget of each example."""

    logits: Float[Tensor, "*batch seq"]  # -inf where a token may not be selected
    budget: Float[Tensor, "*batch 1"]  # tokens to select, at most the selectable ones
    is_full: Bool[Tensor, "*batch 1"]  # every selectable token is selected


def prepare_problem(
    logits: Float[Tensor, "*batch seq"],
    top_k: int | Int[Tensor, "*batch"],
    token_mask: Bool[Tensor, "*batch seq"] | None,
) -> Problem:
    """Mask the scores and clip the budget of each example to its selectable tokens."""
    seq = logits.shape[-1]
    if token_mask is None:
        selectable = logits.new_full((*logits.shape[:-1], 1), seq)
    else:
        selectable = token_mask.sum(-1, keepdim=True).to(logits.dtype)
        logits = logits.masked_fill(~token_mask, -torch.inf)
    wanted = (
        top_k.unsqueeze(-1) if isinstance(top_k, Tensor) else torch.full_like(selectable, top_k)
    )
    wanted = wanted.to(logits.dtype).clamp_min(0)
    return Problem(logits, torch.minimum(wanted, selectable), wanted >= selectable)
