"""Exact soft top-k by one partial sort, with its closed-form gradient.

`selection.saturate` derives the solution `w_i = min(1, u e_i)`. With U the tokens that are not
saturated (`w_i < 1`), the gradient is

    dw_i/ds_j = w_i / epsilon (delta_ij - w_j / sum_U w)    for i, j in U, otherwise 0.
"""

from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import _backend
from ..selection import clamp_size, largest_indices, saturate
from ._problem import prepare_problem

_Context: TypeAlias = Any  # torch does not declare what a function may store on it


def exact_soft_topk(
    logits: Float[Tensor, "*batch seq"],
    top_k: int | Int[Tensor, "*batch"],
    epsilon: float,
    token_mask: Bool[Tensor, "*batch seq"] | None,
    max_top_k: int | None = None,
) -> Float[Tensor, "*batch seq"]:
    """Solve the soft top-k problem; arguments as in `soft_topk`, in float32 or float64."""
    kernels = _backend.kernels
    if kernels is not None and logits.dtype == torch.float32:
        problem = prepare_problem(logits, top_k, token_mask)
        solved: Tensor = kernels.soft_topk(problem.logits, problem.budget.squeeze(-1), epsilon)
        return solved
    seq = logits.shape[-1]
    bound = max_top_k if isinstance(top_k, Tensor) else top_k
    num_sorted = seq if bound is None else clamp_size(bound, 1, seq)
    budget: int | Tensor = num_sorted
    if isinstance(top_k, Tensor) or token_mask is not None:
        logits, budget, _ = prepare_problem(logits, top_k, token_mask)
    if not torch.is_grad_enabled():
        return _solve(logits, budget, epsilon, num_sorted=num_sorted)
    weights: Tensor = _ExactSoftTopK.apply(  # type: ignore[no-untyped-call]
        logits, budget, epsilon, num_sorted
    )
    return weights


class _ExactSoftTopK(torch.autograd.Function):
    """`_solve` with its closed-form gradient, which needs only the weights."""

    # NOTE: `setup_context` would support torch.func, but makes the operator 10% slower, because
    # torch then inspects the signature of `forward` in every call.
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
    exponentials, scale = saturate(logits, order, budget, epsilon)
    return (exponentials * scale).clamp_max(1.0)
