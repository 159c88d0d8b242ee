"""Numbers that tell how routers behave, from the decisions of one forward pass.

They are what to watch while routers train: a router that never leaves its start stays undecided
(entropy near 1), one that has collapsed gives every chosen token the weight 1 early, and layers
without overlap do not build on each other's work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..modules import RoutingDecision
from ..ops import soft_topk
from .routing import chosen_tokens

_SATURATED = 1 - 1e-6  # weights from here on count as 1


@dataclass(frozen=True)
class RouterStatistics:
    """Means over routed layers and rows, all in [0, 1]. Prefix tokens count as chosen.

    Attributes:
        selection_entropy: Entropy of the soft top-k over all real tokens, between that of a hard
            choice of k (0) and that of no preference at all (1).
        neighbour_overlap: Share of the tokens chosen by a layer that the routed layer before it
            chose, too; None if there is only one.
        mean_weight: Mean weight of the chosen tokens.
        saturated_share: Share of the chosen tokens whose weight is 1.
    """

    selection_entropy: float
    neighbour_overlap: float | None
    mean_weight: float
    saturated_share: float


@torch.no_grad()
def router_statistics(
    decisions: Sequence[RoutingDecision | None],
    *,
    epsilon: float,
    token_mask: Tensor | None = None,
) -> RouterStatistics | None:
    """Summarise the decisions of one forward pass.

    Args:
        decisions: One per layer, in order; None for layers that processed every token.
        epsilon: Temperature of the soft top-k.
        token_mask: True for real tokens, `[batch, seq]`; None if nothing is padding.

    Returns:
        The statistics; None if no layer was routed.
    """
    routed = [decision for decision in decisions if decision is not None]
    if not routed:
        return None
    weights = torch.cat([d.selected_weights[d.is_selected].float() for d in routed])
    entropies = [_selection_entropy(decision, epsilon, token_mask) for decision in routed]
    chosen = [chosen_tokens(decision) for decision in routed]
    overlaps = [_overlap(*pair) for pair in pairwise(chosen)]
    return RouterStatistics(
        selection_entropy=float(torch.stack(entropies).mean()),
        neighbour_overlap=float(torch.stack(overlaps).mean()) if overlaps else None,
        mean_weight=float(weights.mean()),
        saturated_share=float((weights >= _SATURATED).float().mean()),
    )


def _selection_entropy(
    decision: RoutingDecision, epsilon: float, token_mask: Tensor | None
) -> Tensor:
    """Return the mean of `(H - ln k) / (ln n - ln k)` over the rows that have a choice."""
    logits = decision.router_logits
    if token_mask is None:
        token_mask = torch.ones_like(logits, dtype=torch.bool)
    num_chosen, num_tokens = decision.is_selected.sum(-1), token_mask.sum(-1)
    has_choice = (num_chosen > 0) & (num_chosen < num_tokens)
    if not has_choice.any():
        return logits.new_zeros(())
    weights = soft_topk(
        logits[has_choice],
        top_k=num_chosen[has_choice],
        max_top_k=decision.is_selected.shape[-1],
        epsilon=epsilon,
        token_mask=token_mask[has_choice],
    )
    shares = weights / weights.sum(-1, keepdim=True)
    entropy = torch.special.entr(shares).sum(-1)
    hard, flat = num_chosen[has_choice].log(), num_tokens[has_choice].log()
    share: Tensor = (entropy - hard) / (flat - hard)
    return share.clamp(0, 1).mean()


def _overlap(before: Tensor, after: Tensor) -> Tensor:
    return (before & after).sum() / after.sum().clamp(min=1)
