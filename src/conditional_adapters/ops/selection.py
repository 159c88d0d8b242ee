"""Hard selection: which k tokens the heavy branch processes.

Selection reads the raw scores, never the soft weights, whose many exact zeros and ones are ties.
Rows of a batch may have different budgets: all get k slots, and the slots beyond a row's own
budget are marked as unselected. Indices within a row are distinct and ascending, which keeps the
order of the sequence (and with it implicit causal masks and relative positions) intact.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import RoutingError
from ._backend import active_kernels
from ._ranking import first_largest_indices


def select_tokens(
    router_logits: Float[Tensor, "batch seq"],
    *,
    top_k: int,
    budgets: Int[Tensor, " batch"] | None = None,
    token_mask: Bool[Tensor, "batch seq"] | None = None,
    always: Bool[Tensor, "batch seq"] | None = None,
) -> tuple[Int[Tensor, "batch k"], Bool[Tensor, "batch k"]]:
    """Choose the `top_k` highest scores of each row.

    Args:
        router_logits: Scores; any floating dtype. No gradient flows through the choice.
        top_k: Number of slots, between 1 and `seq`.
        budgets: Slots that each row really uses, between 0 and `top_k`; None means all. Rows with
            padding need budgets of at most their number of valid tokens.
        token_mask: True where a token is valid. Other tokens come last.
        always: True for tokens that come before all others, whatever their score. No order is
            kept among them, so budgets should have room for all.

    Returns:
        The chosen positions, ascending and distinct in each row, and which of these slots are
        selected. Positions in unselected slots are placeholders and must be masked out.

    Raises:
        RoutingError: If `top_k` is not between 1 and `seq`.

    Source:
        Hard top-k on raw scores is the paper's; budgets per row are our choice.
    """
    seq = router_logits.shape[-1]
    if not 1 <= top_k <= seq:
        raise RoutingError(
            f"top_k must be between 1 and the sequence length {seq}, got {top_k}. "
            "Lower top_k or raise reduction_factor."
        )
    scores = router_logits.detach()
    if always is not None:
        scores = scores.masked_fill(always, torch.inf)
    if token_mask is not None:
        scores = scores.masked_fill(~token_mask, -torch.inf)
    kernels = active_kernels()
    if kernels is not None and scores.dtype != torch.float64:
        indices, is_selected = kernels.select(scores, top_k, budgets)
        return indices, is_selected
    by_rank = first_largest_indices(scores, top_k)
    selected_indices, order = by_rank.sort(-1)
    if budgets is None:
        return selected_indices, torch.ones_like(selected_indices, dtype=torch.bool)
    return selected_indices, order < budgets.unsqueeze(-1)


def prefix_mask(
    num_prefix_tokens: int, token_mask: Bool[Tensor, "batch seq"]
) -> Bool[Tensor, "batch seq"]:
    """Mark the first `num_prefix_tokens` valid tokens of each row, wherever padding stands."""
    return token_mask & (token_mask.cumsum(-1) <= num_prefix_tokens)
