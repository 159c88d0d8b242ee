"""Position biases that depend on the distance of two tokens, not on where they stand."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops import expand_relative_bias, prefers_distances

# `compute(queries, keys)` returns the bias of so many first tokens, which the model looks up.
ComputeBias = Callable[[int, int], Float[Tensor, "*heads query key"]]


def bias_for_layers(
    compute: ComputeBias, seq: int
) -> Float[Tensor, "*heads seq seq"] | Float[Tensor, "*heads distances"]:
    """Make a bias that layers hand on, by distance where they gather it so.

    Args:
        compute: How the model makes it.
        seq: Tokens of a sequence.

    Returns:
        `bias_of_distances`, or the bias of all pairs of tokens, contiguous.
    """
    distances = bias_of_distances(compute, seq)
    return distances if prefers_distances() else expand_relative_bias(distances)


def bias_of_distances(compute: ComputeBias, seq: int) -> Float[Tensor, "*heads distances"]:
    """Make the bias of all distances: that of the first query and that of the first key hold them.

    Args:
        compute: How the model makes it.
        seq: Tokens of a sequence.

    Returns:
        The values of `2 seq - 1` distances `key - query`, ascending.
    """
    first_query, first_key = compute(1, seq).squeeze(-2), compute(seq, 1).squeeze(-1)
    return torch.cat([first_key.flip(-1)[..., :-1], first_query], dim=-1)
