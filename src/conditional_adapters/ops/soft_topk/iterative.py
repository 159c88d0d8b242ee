"""Soft top-k of the paper: coordinate ascent on the dual variables, with temperature scaling.

The optimality conditions give `w_i = exp((s_i + a + b_i) / epsilon)` with `a` enforcing the sum and
`b_i <= 0` the upper bounds. Each round sets `a` for the current `b`, then `b` for the new `a`:

    a   <- epsilon ln k - epsilon logsumexp((s + b) / epsilon)
    b_i <- min(-s_i - a, 0)

Only `s + b` is needed, and the second line makes it `min(s, -a)`: scores clamped at a ceiling. The
temperature decreases to its target. The last update is that of `b`, so every weight is at most 1,
and the sum only approaches k. Gradients flow through all rounds.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._problem import prepare_problem


def iterative_soft_topk(
    logits: Float[Tensor, "*batch seq"],
    top_k: int | Int[Tensor, "*batch"],
    epsilon: float,
    token_mask: Bool[Tensor, "*batch seq"] | None,
    num_iterations: int,
    epsilon_init: float,
    epsilon_decay: float,
) -> Float[Tensor, "*batch seq"]:
    """Run the coordinate ascent; arguments as in `soft_topk`, in float32 or float64."""
    problem = prepare_problem(logits, top_k, token_mask)
    # Examples with k = 0 are solved for k = 1 on zeros, and their weights are set to 0 below.
    log_budget = problem.budget.clamp_min(1.0).log()
    scores = problem.logits.masked_fill(problem.budget == 0, 0.0)
    temperature = max(epsilon_init, epsilon)
    cut = scores  # s + b
    for _ in range(num_iterations):
        ceiling = temperature * ((cut / temperature).logsumexp(-1, keepdim=True) - log_budget)  # -a
        cut = scores.clamp(max=ceiling)
        temperature = max(temperature * epsilon_decay, epsilon)
    weights = ((cut - ceiling) / epsilon).exp()
    # Exact values: 1 in full examples, 0 in empty ones and outside the mask.
    weights = torch.where(problem.is_full, 1.0, weights)
    weights = torch.where(problem.budget > 0, weights, 0.0)
    return weights if token_mask is None else weights.masked_fill(~token_mask, 0.0)
