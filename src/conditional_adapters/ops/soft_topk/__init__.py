"""Soft top-k: a differentiable relaxation of "the k largest".

The problem is

    maximise  s.w + epsilon H(w)   subject to   sum(w) = k,   0 <= w <= 1,

with `H(w) = -sum w ln w`. `exact` solves it. `iterative` runs a fixed number of rounds of the
paper's coordinate ascent, which may be far from the solution if epsilon is small. Their weights
differ, so a model needs the method it was trained with. README.md in this folder has the
derivation.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import RoutingError
from .exact import exact_soft_topk
from .iterative import iterative_soft_topk

SoftTopKMethod = Literal["exact", "iterative"]


def soft_topk(
    router_logits: Float[Tensor, "*batch seq"],
    *,
    top_k: int | Int[Tensor, "*batch"],
    epsilon: float,
    method: SoftTopKMethod = "exact",
    token_mask: Bool[Tensor, "*batch seq"] | None = None,
    max_top_k: int | None = None,
    num_iterations: int = 20,
    epsilon_init: float = 4.0,
    epsilon_decay: float = 0.7,
) -> Float[Tensor, "*batch seq"]:
    """Relax hard top-k selection into weights between 0 and 1.

    Args:
        router_logits: Unnormalised scores. Computed in float32 (float64 stays float64) with
            autocast off, whatever the input dtype.
        top_k: Number of tokens to select, `>= 1`; a tensor has one number per example, and 0 gives
            weight 0 everywhere. If it reaches the number of selectable tokens, all of them get
            weight 1.
        epsilon: Temperature, `> 0`, in units of the logits. The limit at 0 is hard top-k.
        method: "exact" solves the problem; "iterative" is the paper's coordinate ascent.
        token_mask: True where a token may be selected. Other positions get weight 0.
        max_top_k: Upper bound of a tensor `top_k`, if it is known without a device-to-host copy;
            "exact" then sorts only that many scores.
        num_iterations: Rounds of the iterative method, `>= 1`.
        epsilon_init: Temperature of its first round.
        epsilon_decay: Factor per round, in (0, 1]; the temperature never falls below `epsilon`.

    Returns:
        Weights in [0, 1], in the dtype of the input. Those of "exact" sum to `top_k` in each
        example.

    Raises:
        RoutingError: If a number is outside its range or the method is unknown.

    Source:
        CoDA, arXiv:2304.04947, and AligneR, arXiv:2211.01267, for the problem and the iteration;
        the exact solution is our choice (docs/decisions/0002).
    """
    _check(top_k, epsilon, method, num_iterations, epsilon_init, epsilon_decay)
    dtype = torch.promote_types(router_logits.dtype, torch.float32)
    with torch.autocast(router_logits.device.type, enabled=False):
        logits = router_logits.to(dtype)
        if method == "exact":
            weights = exact_soft_topk(logits, top_k, epsilon, token_mask, max_top_k)
        else:
            weights = iterative_soft_topk(
                logits, top_k, epsilon, token_mask, num_iterations, epsilon_init, epsilon_decay
            )
    return weights.to(router_logits.dtype)


def _check(
    top_k: int | Tensor,
    epsilon: float,
    method: str,
    num_iterations: int,
    epsilon_init: float,
    epsilon_decay: float,
) -> None:
    if isinstance(top_k, int) and top_k < 1:
        raise RoutingError(f"top_k must be at least 1, got {top_k}. Select one token or more.")
    if not epsilon > 0:
        raise RoutingError(
            f"epsilon must be above 0, got {epsilon}. Hard top-k is the limit at 0; use "
            "select_tokens for it, or a small value such as 0.02."
        )
    if method not in get_args(SoftTopKMethod):
        raise RoutingError(f"method must be 'exact' or 'iterative', got {method!r}.")
    if num_iterations < 1:
        raise RoutingError(f"num_iterations must be at least 1, got {num_iterations}.")
    if not epsilon_init > 0:
        raise RoutingError(f"epsilon_init must be above 0, got {epsilon_init}.")
    if not 0 < epsilon_decay <= 1:
        raise RoutingError(f"epsilon_decay must be above 0 and at most 1, got {epsilon_decay}.")
