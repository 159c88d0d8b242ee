"""The exact solution of soft top-k, by one partial sort.

The solution is `w_i = min(1, exp(s_i / epsilon - t))`. Once it is known which m tokens are
saturated (`w_i = 1`), the others share the rest of the budget by a softmax:

    w_i = (k - m) softmax(s / epsilon)_i     over the unsaturated tokens U.

So only m has to be found. In descending order the token of rank j (from 0) is saturated exactly if
its share of the rest would exceed 1, `(k - j) e_j > sum_{i >= j} e_i` with `e = exp(s / epsilon)`,
and these tokens form a prefix; m < k, so the k largest scores and one sum over the tail suffice.

The gradient needs no code: that of the softmax over U is the closed form
`dw_i/ds_j = w_i / epsilon (delta_ij - w_j / sum_U w)`, and saturated tokens have none.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._rows import finish_rows, prepare_rows


def exact_soft_topk(
    logits: Float[Tensor, "*batch seq"],
    top_k: int | Int[Tensor, "*batch"],
    epsilon: float,
    token_mask: Bool[Tensor, "*batch seq"] | None,
    max_top_k: int | None = None,
) -> Float[Tensor, "*batch seq"]:
    """Solve the soft top-k problem; arguments as in `soft_topk`, in float32 or float64."""
    seq = logits.shape[-1]
    if isinstance(top_k, int) and token_mask is None:
        if top_k >= seq:
            return torch.ones_like(logits)
        return _solve(logits, top_k, epsilon, num_sorted=top_k)
    rows = prepare_rows(logits, top_k, token_mask)
    bound = top_k if isinstance(top_k, int) else max_top_k
    num_sorted = seq if bound is None else min(max(bound, 1), seq)
    weights = _solve(rows.logits, rows.budget, epsilon, num_sorted=num_sorted)
    return finish_rows(weights, rows, token_mask)


def _solve(
    logits: Float[Tensor, "*batch seq"],
    budget: int | Float[Tensor, "*batch 1"],
    epsilon: float,
    *,
    num_sorted: int,
) -> Float[Tensor, "*batch seq"]:
    with torch.no_grad():
        largest, order = logits.topk(num_sorted)
        anchor = _smallest_selected(largest, budget)
    # Differences between scores lose no digits, however small epsilon is.
    gap = (logits - anchor) / epsilon
    with torch.no_grad():
        head = gap.gather(-1, order)
        tail_sum = gap.exp().scatter(-1, order, 0.0).sum(-1, keepdim=True)
        num_saturated = _count_saturated(head, tail_sum, budget, seq=logits.shape[-1])
        is_saturated = logits > largest.gather(-1, num_saturated)
        share = budget - num_saturated
    weights = gap.masked_fill(is_saturated, -torch.inf).softmax(-1) * share
    return weights.clamp_max(1.0).masked_fill(is_saturated, 1.0)


def _smallest_selected(
    largest: Float[Tensor, "*batch sorted"], budget: int | Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch 1"]:
    """Return the k-th largest score of each row, or 0 where a row selects nothing."""
    if isinstance(budget, int):
        return largest[..., budget - 1 : budget]
    anchor = largest.gather(-1, (budget.long() - 1).clamp_min(0))
    return anchor.masked_fill(anchor == -torch.inf, 0.0)


def _count_saturated(
    head: Float[Tensor, "*batch sorted"],
    tail_sum: Float[Tensor, "*batch 1"],
    budget: int | Float[Tensor, "*batch 1"],
    *,
    seq: int,
) -> Int[Tensor, "*batch 1"]:
    """Count the ranks whose share of the remaining budget would exceed 1."""
    # Relative to the k-th score, an unsaturated exponential is at most seq, so larger ones may be
    # cut there: they stay saturated and cannot overflow.
    exponentials = head.clamp_max(math.log(seq) + 1.0).exp()
    rest = exponentials.flip(-1).cumsum(-1).flip(-1) + tail_sum
    ranks = torch.arange(head.shape[-1], device=head.device, dtype=head.dtype)
    return (exponentials * (budget - ranks) > rest).sum(-1, keepdim=True)
