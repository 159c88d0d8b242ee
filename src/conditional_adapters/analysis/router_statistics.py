"""Statistics of router behaviour, from the decisions of one forward pass.

Watch them while routers train. A selection entropy that stays near 1 means that the router does not
learn. A saturated share near 1 early in training means that the router has collapsed. Without
overlap between layers, later layers do not build on the work of earlier ones.
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
    """Means over routed layers and sequences, all in [0, 1]. Prefix tokens count as chosen.

    Attributes:
        selection_entropy: Normalised entropy of the soft top-k over all real tokens: 0 for a hard
            selection of k, 1 for uniform weights.
        neighbour_overlap: Share of the tokens chosen by a layer that the previous routed layer
            chose as well; None if only one layer is routed.
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
    overlaps = [
        (before & after).sum() / after.sum().clamp(min=1)
        for before, after in pairwise(map(chosen_tokens, routed))
    ]
    return RouterStatistics(
        selection_entropy=float(torch.stack(entropies).mean()),
        neighbour_overlap=float(torch.stack(overlaps).mean()) if overlaps else None,
        mean_weight=float(weights.mean()),
        saturated_share=float((weights >= _SATURATED).float().mean()),
    )


def _selection_entropy(
    decision: RoutingDecision, epsilon: float, token_mask: Tensor | None
) -> Tensor:
    """Mean of `(H - ln k) / (ln n - ln k)` over the sequences with 0 < k < n."""
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
    hard, uniform = num_chosen[has_choice].log(), num_tokens[has_choice].log()
    share: Tensor = (entropy - hard) / (uniform - hard)
    return share.clamp(0, 1).mean()
