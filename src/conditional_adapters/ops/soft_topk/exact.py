"""The exact solution of soft top-k, by one partial sort.

The solution is `w_i = min(1, u e_i)` with `e_i = exp(s_i / epsilon)` and one number u per row.
Bounding j of the weights by 1 and the others by `u e_i` gives `k = sum(w) <= j + u sum_others(e)`,
with equality if the j tokens are the saturated ones (`w_i = 1`), which have the largest e. Hence

    u = max_j (k - j) / (sum of all e but the j largest),    0 <= j < k.

Only the k largest scores have to be sorted; the tail is one sum.

The gradient has a closed form as well, with U the tokens that are not saturated:

    dw_i/ds_j = w_i / epsilon (delta_ij - w_j / sum_U w)    for i, j in U, otherwise 0.
"""

from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .._backend import active_kernels
from .._budget import clamp_size
from .._ranking import first_largest_indices, largest_indices
from ._rows import prepare_rows

_Context: TypeAlias = Any  # torch does not declare what a function may store on it


def exact_soft_topk(
    logits: Float[Tensor, "*batch seq"],
    top_k: int | Int[Tensor, "*batch"],
    epsilon: float,
    token_mask: Bool[Tensor, "*batch seq"] | None,
    max_top_k: int | None = None,
) -> Float[Tensor, "*batch seq"]:
    """Solve the soft top-k problem; arguments as in `soft_topk`, in float32 or float64."""
    kernels = active_kernels()
    if kernels is not None and logits.dtype == torch.float32:
        rows = prepare_rows(logits, top_k, token_mask)
        solved: Tensor = kernels.soft_topk(rows.logits, rows.budget.squeeze(-1), epsilon)
        return solved
    seq = logits.shape[-1]
    bound = max_top_k if isinstance(top_k, Tensor) else top_k
    num_sorted = seq if bound is None else clamp_size(bound, 1, seq)
    budget: int | Tensor = num_sorted
    if isinstance(top_k, Tensor) or token_mask is not None:
        logits, budget, _ = prepare_rows(logits, top_k, token_mask)
    if not torch.is_grad_enabled():
        return _solve(logits, budget, epsilon, num_sorted=num_sorted)
    weights: Tensor = _ExactSoftTopK.apply(  # type: ignore[no-untyped-call]
        logits, budget, epsilon, num_sorted
    )
    return weights


def select_and_weigh(
    logits: Float[Tensor, "batch seq"], *, top_k: int, epsilon: float
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Choose the `top_k` largest scores and weigh only them, ranking once: for inference.

    Args:
        logits: Scores in float32 or float64.
        top_k: Between 1 and `seq`.
        epsilon: Temperature, > 0.

    Returns:
        What `select_tokens` returns as positions, ascending, and the weights that `soft_topk`
        gives to them. Without gradient: that needs the weights of all tokens.

    Source:
        Weights of the chosen tokens alone are our choice; see README.md.
    """
    kernels = active_kernels()
    if kernels is not None and logits.dtype == torch.float32:
        indices, soft = kernels.select_and_weigh(logits, top_k, epsilon)
        return indices, soft
    order = first_largest_indices(logits, top_k)
    exponentials, scale = _relax(logits, order, top_k, epsilon)
    selected_indices = order.sort(-1).values
    weights = (exponentials.gather(-1, selected_indices) * scale).clamp_max(1.0)
    return selected_indices, weights.detach()


class _ExactSoftTopK(torch.autograd.Function):
    """Pairs `_solve` with its closed-form gradient, which needs the weights alone."""

    # NOTE: a separate `setup_context` would open torch.func to this operator, but costs a tenth of
    # its time: torch then inspects the signature of `forward` in every call.
    @staticmethod
    def forward(
        ctx: _Context,
        logits: Float[Tensor, "*batch seq"],
        budget: int | Float[Tensor, "*batch 1"],
        epsilon: float,
        num_sorted: int,
    ) -> Float[Tensor, "*batch seq"]:
        weights = _solve(logits, budget, epsilon, num_sorted=num_sorted)
        ctx.save_for_backward(weights)
        ctx.epsilon = epsilon
        return weights

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weights,) = ctx.saved_tensors
        free = weights.frac()  # 0 where saturated
        total = free.sum(-1, keepdim=True).clamp_min(torch.finfo(free.dtype).tiny)
        mean = (free * grad).sum(-1, keepdim=True) / total
        return free * (grad - mean) / ctx.epsilon, None, None, None


def _solve(
    logits: Float[Tensor, "*batch seq"],
    budget: int | Float[Tensor, "*batch 1"],
    epsilon: float,
    *,
    num_sorted: int,
) -> Float[Tensor, "*batch seq"]:
    order = largest_indices(logits, num_sorted)
    exponentials, scale = _relax(logits, order, budget, epsilon)
    return (exponentials * scale).clamp_max(1.0)


def _relax(
    logits: Float[Tensor, "*batch seq"],
    order: Int[Tensor, "*batch sorted"],
    budget: int | Float[Tensor, "*batch 1"],
    epsilon: float,
) -> tuple[Float[Tensor, "*batch seq"], Float[Tensor, "*batch 1"]]:
    """Return e and u of each row, given where the largest scores are, in descending order."""
    # Relative to the k-th score, differences lose no digits, however small epsilon is.
    exponentials = ((logits - _smallest_selected(logits, order, budget)) / epsilon).exp()
    tail_sum = exponentials.scatter(-1, order, 0.0).sum(-1, keepdim=True)
    return exponentials, _scale(exponentials.gather(-1, order), tail_sum, budget)


def _scale(
    exponentials: Float[Tensor, "*batch sorted"],
    tail_sum: Float[Tensor, "*batch 1"],
    budget: int | Float[Tensor, "*batch 1"],
) -> Float[Tensor, "*batch 1"]:
    """Return u, from the largest exponentials in descending order and the sum of the others."""
    num_sorted = exponentials.shape[-1]
    # From the smallest up: exponentials that overflow spoil only sums that include saturated
    # tokens, and lose the maximum. The k-th is 1, so sums that count are at least 1.
    rest = (exponentials.flip(-1).cumsum(-1) + tail_sum).clamp_min(1.0)
    ranks = torch.arange(1, num_sorted + 1, device=rest.device, dtype=rest.dtype)
    return ((ranks + (budget - num_sorted)) / rest).amax(-1, keepdim=True)


def _smallest_selected(
    logits: Float[Tensor, "*batch seq"],
    order: Int[Tensor, "*batch sorted"],
    budget: int | Float[Tensor, "*batch 1"],
) -> Float[Tensor, "*batch 1"]:
    """Return the k-th largest score of each row, or 0 where a row has no token to select."""
    if not isinstance(budget, Tensor):  # a symbolic size of an exported program is no int
        return logits.gather(-1, order[..., budget - 1 : budget])
    smallest = logits.gather(-1, order.gather(-1, (budget.long() - 1).clamp_min(0)))
    return smallest.masked_fill(smallest == -torch.inf, 0.0)
