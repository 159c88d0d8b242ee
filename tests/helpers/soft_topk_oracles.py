"""Slow, obvious solvers of the soft top-k problem, sharing no code with the library.

`bisect_soft_topk` halves an interval around the one unknown of a row, `coordinate_ascent` follows
the published update rules to the letter. Both work on NumPy arrays in float64, row by row.
"""

import numpy as np
import torch
from torch import Tensor


def bisect_soft_topk(
    logits: Tensor,
    top_k: int | Tensor,
    epsilon: float,
    token_mask: Tensor | None = None,
) -> Tensor:
    """Find t with `sum(min(1, exp(s / epsilon - t))) = k` in each row, by bisection."""
    seq = logits.shape[-1]
    rows = logits.detach().double().reshape(-1, seq).numpy()
    valid = np.ones(rows.shape, dtype=bool)
    if token_mask is not None:
        valid = token_mask.reshape(-1, seq).numpy()
    budgets = np.broadcast_to(np.asarray(top_k), logits.shape[:-1]).reshape(-1)
    weights = np.zeros_like(rows)
    for row, keep, budget, out in zip(rows, valid, budgets, weights, strict=True):
        out[keep] = _bisect_row(row[keep], int(budget), epsilon)
    return torch.from_numpy(weights).view(logits.shape)


def _bisect_row(scores: np.ndarray, budget: int, epsilon: float) -> np.ndarray:
    if budget <= 0:
        return np.zeros_like(scores)
    if budget >= len(scores):
        return np.ones_like(scores)
    scaled = (scores - np.sort(scores)[-budget]) / epsilon
    # At the k-th score k tokens reach 1; ln(n) above it, n tokens add up to less than k.
    low, high = 0.0, np.log(len(scores)) + 1.0
    for _ in range(100):
        middle = (low + high) / 2
        is_too_much = np.exp(np.minimum(scaled - middle, 0.0)).sum() > budget
        low, high = (middle, high) if is_too_much else (low, middle)
    return np.exp(np.minimum(scaled - high, 0.0))


def coordinate_ascent(
    scores: np.ndarray,
    top_k: int,
    epsilon: float,
    *,
    num_iterations: int,
    epsilon_init: float,
    epsilon_decay: float,
    start: np.ndarray,
) -> np.ndarray:
    """Run the published rounds on one row, from `b = start`."""
    bounds = start
    temperature = max(epsilon_init, epsilon)
    for _ in range(num_iterations):
        dual = np.logaddexp.reduce((scores + bounds) / temperature)
        offset = temperature * (np.log(top_k) - dual)
        bounds = np.minimum(-scores - offset, 0.0)
        temperature = max(temperature * epsilon_decay, epsilon)
    return np.exp((scores + offset + bounds) / epsilon)
