"""Find the largest scores of a row, by comparing integers instead of floats.

Read as an integer, the bits of a float order positive numbers by value and negative ones the other
way round; flipping all bits of a negative number but its sign puts both in order. On the CPU a
comparison of floats has to look out for NaN, and `topk` on integers takes a third less time.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def largest_indices(scores: Float[Tensor, "*batch seq"], count: int) -> Int[Tensor, "*batch count"]:
    """Return the positions of the `count` largest scores, from the largest down.

    Everything that ranks scores does it here, so that ties are cut at the same place everywhere.
    """
    dtype = _INTEGER_OF_SIZE[scores.element_size()]
    bits = scores.view(dtype)
    limits = torch.iinfo(dtype)
    sign = bits >> (limits.bits - 1)  # 0, or -1 for negative numbers
    return (bits ^ (sign & limits.max)).topk(count).indices
