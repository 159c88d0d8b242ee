"""Position biases that depend only on the distance of two tokens."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops import expand_relative_bias, prefers_distances

# `compute(queries, keys)` returns the model's bias for that number of first queries and first keys.
ComputeBias = Callable[[int, int], Float[Tensor, "*heads query key"]]


def bias_for_layers(
    compute: ComputeBias, seq: int
) -> Float[Tensor, "*heads seq seq"] | Float[Tensor, "*heads distances"]:
    """Bias for all layers: by distance if that is faster to gather, else of all pairs."""
    distances = bias_of_distances(compute, seq)
    return distances if prefers_distances() else expand_relative_bias(distances)


def bias_of_distances(compute: ComputeBias, seq: int) -> Float[Tensor, "*heads distances"]:
    """Bias of the `2 seq - 1` distances `key - query`, ascending, from the first query and key."""
    first_query, first_key = compute(1, seq).squeeze(-2), compute(seq, 1).squeeze(-1)
    return torch.cat([first_key.flip(-1)[..., :-1], first_query], dim=-1)
