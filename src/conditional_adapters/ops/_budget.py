"""How many tokens the heavy branch may process: `k = ceil(n / r)`."""

import math
from typing import cast, overload

import torch
from torch import Tensor


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

    The quotient is taken in float64 for integers and tensors alike, so that a length gives the
    same budget whichever way it is asked.

    Args:
        length: Number of valid tokens, `>= 0`; an integer tensor gives one budget per entry.
        reduction_factor: `r >= 1`; where lengths are a tensor, one in float64 gives each its own.
        minimum: Smallest budget, for example the number of tokens that are always routed. A
            sequence shorter than that gets all its tokens.

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
        low: The smallest that it may be.
        high: The largest that it may be, even if that is below `low`.

    Returns:
        The number within its bounds.
    """
    if any(isinstance(number, torch.SymInt) for number in (size, low, high)):
        clamped: int = torch.sym_min(torch.sym_max(size, low), high)  # type: ignore[no-untyped-call]
        return clamped
    return min(max(size, low), high)  # torch 2.11 compiles no sym_max of two numbers
