"""Selection: how many tokens the frozen layer processes, which ones, and with what weight.

The number is `k = ceil(n / r)`. Hard selection takes the k largest raw scores, never the soft
weights, whose many exact zeros and ones are ties. Indices within an example are distinct and
ascending, which preserves the order of the sequence, and with it implicit causal masks and relative
positions. Examples of a batch may have different budgets: all get `top_k` slots, and the slots
beyond an example's own budget are marked as unselected.

The exact soft top-k weights (`soft_topk/README.md`) need the same ranking. They are
`w_i = min(1, u e_i)` with `e_i = exp(s_i / epsilon)` and one number u per example. Bounding j of
the weights by 1 and the others by `u e_i` gives `k = sum(w) <= j + u sum_others(e)`, with
equality if the j tokens are the saturated ones (`w_i = 1`), which have the largest e. Hence

    u = max_j (k - j) / (sum of all e but the j largest),    0 <= j < k,

so that only the k largest scores have to be sorted; the tail is one sum.
"""

import math
from typing import cast, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import RoutingError
from . import _backend

_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@overload
def token_budget(length: int, reduction_factor: float, *, minimum: int = ...) -> int: ...
@overload
def token_budget(
    length: Tensor, reduction_factor: float | Tensor, *, minimum: int = ...
) -> Tensor: ...
def token_budget(
    length: int | Tensor, reduction_factor: float | Tensor, *, minimum: int = 1
) -> int | Tensor:
    """Return `ceil(length / reduction_factor)`, at least `minimum`, at most `length`.

    The quotient is computed in float64 for integers and tensors alike, so that a length has the
    same budget in both forms.

    Args:
        length: Number of valid tokens, `>= 0`; an integer tensor gives one budget per entry.
        reduction_factor: `r >= 1`; with a tensor of lengths, a float64 tensor gives each its own.
        minimum: Lower bound, for example the number of tokens that are always selected. A shorter
            sequence gets all its tokens.

    Returns:
        The number of tokens to process, of the same kind as `length`.

    Source:
        `k = n / r` is the paper's; rounding up and the minimum are our choice.
    """
    if isinstance(length, Tensor):
        budget = torch.ceil(length.double() / reduction_factor).to(length.dtype)
        return torch.minimum(budget.clamp_min(minimum), length)
    return clamp_size(math.ceil(length / cast("float", reduction_factor)), minimum, length)


def clamp_size(size: int, low: int, high: int) -> int:
    """Return `min(max(size, low), high)`; the sizes of exported programs stay symbolic.

    Args:
        size: A number of tokens.
        low: Lower bound.
        high: Upper bound; it wins where it is below `low`.

    Returns:
        The clamped number.
    """
    if type(size) is type(low) is type(high) is int:
        return min(max(size, low), high)
    clamped: int = torch.sym_min(torch.sym_max(size, low), high)  # type: ignore[no-untyped-call]
    return clamped


def select_tokens(
    router_logits: Float[Tensor, "batch seq"],
    *,
    top_k: int,
    budgets: Int[Tensor, " batch"] | None = None,
    token_mask: Bool[Tensor, "batch seq"] | None = None,
    always: Bool[Tensor, "batch seq"] | None = None,
) -> tuple[Int[Tensor, "batch k"], Bool[Tensor, "batch k"]]:
    """Select the `top_k` highest scores of each example.

    Args:
        router_logits: Scores; any floating dtype. No gradient flows through the selection.
        top_k: Number of slots, between 1 and `seq`.
        budgets: Slots that each example uses, between 0 and `top_k`; None means all. Examples with
            padding need budgets of at most their number of valid tokens.
        token_mask: True where a token is valid. Other tokens come last.
        always: True for tokens that come before all others, whatever their score. No order is
            kept among them, so budgets should have room for all.

    Returns:
        The selected indices, ascending and distinct in each example, and which of these slots are
        selected. Indices in unselected slots are placeholders and must be masked out.

    Raises:
        RoutingError: If `top_k` is not between 1 and `seq`.

    Source:
        Hard top-k on raw scores is the paper's; budgets per example are our choice.
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
    kernels = _backend.kernels
    if kernels is not None and scores.dtype != torch.float64:
        indices, is_selected = kernels.select(scores, top_k, budgets)
        return indices, is_selected
    selected_indices, rank = first_largest_indices(scores, top_k).sort(-1)
    if budgets is None:
        return selected_indices, torch.ones_like(selected_indices, dtype=torch.bool)
    return selected_indices, rank < budgets.unsqueeze(-1)


def prefix_mask(
    num_prefix_tokens: int, token_mask: Bool[Tensor, "batch seq"]
) -> Bool[Tensor, "batch seq"]:
    """Mark the first `num_prefix_tokens` valid tokens of each example."""
    return token_mask & (token_mask.cumsum(-1) <= num_prefix_tokens)


def select_and_weigh(
    logits: Float[Tensor, "batch seq"], *, top_k: int, epsilon: float
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Select the `top_k` largest scores and compute their weights alone, for inference.

    Args:
        logits: Scores in float32 or float64.
        top_k: Between 1 and `seq`.
        epsilon: Temperature, > 0.

    Returns:
        The ascending indices of `select_tokens` and the weights that the exact `soft_topk` gives
        to them. Without gradient: that needs the weights of all tokens.

    Source:
        Computing the weights of the selected tokens alone is our choice; see soft_topk/README.md.
    """
    kernels = _backend.kernels
    if kernels is not None and logits.dtype == torch.float32:
        indices, soft = kernels.select_and_weigh(logits, top_k, epsilon)
        return indices, soft
    order = first_largest_indices(logits, top_k)
    exponentials, scale = saturate(logits, order, top_k, epsilon)
    selected_indices = order.sort(-1).values
    weights = (exponentials.gather(-1, selected_indices) * scale).clamp_max(1.0)
    return selected_indices, weights.detach()


def saturate(
    logits: Float[Tensor, "*batch seq"],
    order: Int[Tensor, "*batch sorted"],
    budget: int | Float[Tensor, "*batch 1"],
    epsilon: float,
) -> tuple[Float[Tensor, "*batch seq"], Float[Tensor, "*batch 1"]]:
    """Solve the soft top-k problem: return e and u of each example, with weights `min(1, u e)`.

    Args:
        logits: Scores; -inf where a token may not be selected.
        order: Indices of the largest scores, in descending order; at least as many as the budget.
        budget: k, one number or one per example; 0 gives weights that mean nothing.
        epsilon: Temperature, > 0.

    Returns:
        `exp((s - s_k) / epsilon)`, relative to the k-th largest score `s_k`, and the scale u.
    """
    if isinstance(budget, Tensor):
        smallest = logits.gather(-1, order.gather(-1, (budget.long() - 1).clamp_min(0)))
        smallest = smallest.masked_fill(smallest == -torch.inf, 0.0)  # no token to select
    else:  # an int, or a symbolic size of an exported program
        smallest = logits.gather(-1, order[..., budget - 1 : budget])
    # Relative to the k-th score, differences lose no digits, however small epsilon is.
    exponentials = ((logits - smallest) / epsilon).exp()
    tail_sum = exponentials.scatter(-1, order, 0.0).sum(-1, keepdim=True)
    # From the smallest up: exponentials that overflow affect only sums that include saturated
    # tokens, and lose the maximum. The k-th is 1, so sums that count are at least 1.
    ascending = exponentials.gather(-1, order).flip(-1)
    rest = (ascending.cumsum(-1) + tail_sum).clamp_min(1.0)
    num_sorted = order.shape[-1]
    ranks = torch.arange(1, num_sorted + 1, device=rest.device, dtype=rest.dtype)
    return exponentials, ((ranks + (budget - num_sorted)) / rest).amax(-1, keepdim=True)


def largest_indices(scores: Float[Tensor, "*batch seq"], count: int) -> Int[Tensor, "*batch count"]:
    """Return the indices of the `count` largest scores in descending order; ties in any order."""
    if torch.compiler.is_exporting():
        return scores.topk(count).indices
    return _ordered_bits(scores).topk(count).indices


def first_largest_indices(
    scores: Float[Tensor, "*batch seq"], count: int
) -> Int[Tensor, "*batch count"]:
    """Return the indices of the `count` largest scores; the earlier token wins ties.

    Ties are frequent: where positions are not in the embeddings (T5, rotary encoders), equal tokens
    of a text have equal scores in the first layer. `topk` breaks them in any order, and an example
    alone could then select other tokens than in a padded batch.
    """
    # float64 leaves no room for a position.
    if scores.dtype == torch.float64 or torch.compiler.is_exporting():
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    # The position in the lower half of an integer twice as long; + 0.0 maps -0.0 to 0.0.
    ordered = _ordered_bits(scores.float() + 0.0).long()
    seq = scores.shape[-1]
    earlier_first = torch.arange(seq - 1, -1, -1, device=scores.device)
    return ((ordered << 32) | earlier_first).topk(count).indices


def _ordered_bits(scores: Float[Tensor, "*batch seq"]) -> Int[Tensor, "*batch seq"]:
    """Map floats to integers of the same order; `topk` on integers takes a third less time on CPUs.

    The bits of positive floats, read as integers, are in order already; those of negative ones are
    flipped but for the sign. Exported programs compare floats: ONNX has no such cast before opset
    26.
    """
    dtype = _INTEGER_OF_SIZE[scores.element_size()]
    bits, limits = scores.view(dtype), torch.iinfo(dtype)
    sign = bits >> (limits.bits - 1)  # 0, or -1 for negative numbers
    return bits ^ (sign & limits.max)
