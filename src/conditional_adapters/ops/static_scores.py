"""Baselines of the learned router: scores that depend only on the position, or are random.

They replace the router logits; all code after the scores is the same.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import RoutingError

StaticRouterKind = Literal["random", "first", "strided"]


def static_router_logits(
    kind: StaticRouterKind,
    token_mask: Bool[Tensor, "batch seq"],
    *,
    budgets: Int[Tensor, " batch"],
    seed: int | Int[Tensor, ""] = 0,
) -> Float[Tensor, "batch seq"]:
    """Score tokens without their content.

    Args:
        kind: "random" gives every token a pseudo-random score, "first" prefers early tokens,
            "strided" selects tokens at even distances.
        token_mask: True where a token is valid; positions count valid tokens only.
        budgets: Number of tokens to select in each example.
        seed: For "random"; equal seeds give equal scores, also in gradient checkpointing.

    Returns:
        Finite scores in float32. Padding has scores as well, which the selection must mask.

    Raises:
        RoutingError: If the kind is unknown.

    Source:
        Our choice of baselines; the paper has an ablation with other ones.
    """
    positions = token_mask.cumsum(-1) - 1
    if kind == "first":
        return -positions.float()
    if kind == "strided":
        lengths = token_mask.sum(-1, keepdim=True).clamp_min(1)
        wanted = budgets.unsqueeze(-1)
        return ((positions + 1) * wanted // lengths - positions * wanted // lengths).float()
    if kind == "random":
        example = torch.arange(token_mask.shape[0], device=token_mask.device).unsqueeze(-1)
        return _hash(positions + 65_521 * example + 2_654_435_761 * seed)
    raise RoutingError(f"kind must be one of {get_args(StaticRouterKind)}, got {kind!r}.")


def static_positions(
    kind: Literal["first", "strided"],
    seq: int,
    *,
    top_k: int,
    num_prefix_tokens: int = 0,
    num_suffix_tokens: int = 0,
    device: torch.device | None = None,
) -> Int[Tensor, " others"]:
    """Return the selection by these scores in a full example, without its prefix and suffix.

    Strided scores are 1 where `position * top_k // seq` is about to increase, which is true of
    `top_k` tokens. The j-th of them, counted from 1, has the position `(j * seq - 1) // top_k`.

    Args:
        kind: "first" or "strided".
        seq: Length of the sequence.
        top_k: Number of selected tokens, with prefix and suffix; between 1 and `seq`.
        num_prefix_tokens: Tokens at the start that are always selected.
        num_suffix_tokens: The same at the end; with the prefix, at most `top_k`.
        device: Device of the result.

    Returns:
        The `top_k - num_prefix_tokens - num_suffix_tokens` other positions, ascending.
    """
    others = top_k - num_prefix_tokens - num_suffix_tokens
    if kind == "first":
        return torch.arange(num_prefix_tokens, num_prefix_tokens + others, device=device)
    in_prefix = num_prefix_tokens * top_k // seq  # prefix tokens with the score 1
    ranks = torch.arange(in_prefix + 1, in_prefix + 1 + others, device=device)
    return (ranks * seq - 1) // top_k


def _hash(key: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Map integers to pseudo-random multiples of 2**-24 in [0, 1) by multiply-and-shift mixing."""
    bits = key & 0xFFFFFFFF
    for multiplier in (0x7FEB352D, 0x846CA68B):
        bits = ((bits ^ (bits >> 16)) * multiplier) & 0xFFFFFFFF
    # float32 has 24 bits: more would round up to 1.
    return ((bits ^ (bits >> 16)) >> 8).float() / 2.0**24
