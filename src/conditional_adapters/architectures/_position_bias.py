"""Position biases that depend on the distance of two tokens, not on where they stand."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops import is_recorded


def bias_of_distances(
    compute: Callable[[int, int], Float[Tensor, "*heads query key"]], seq: int
) -> Float[Tensor, "*heads seq seq"]:
    """Make the bias of all pairs of tokens.

    The bias of the first query and that of the first key hold those of all distances; each row of
    the whole is a window of them. The model itself would look each pair up.

    Args:
        compute: `compute(queries, keys)` returns the bias of so many first tokens.
        seq: Tokens of a sequence.

    Returns:
        What `compute(seq, seq)` returns, contiguous.
    """
    if is_recorded():  # a graph computes what it needs, of any length
        return compute(seq, seq).contiguous()
    first_query, first_key = compute(1, seq), compute(seq, 1)
    backwards = first_key.squeeze(-1).flip(-1)[..., :-1]
    distances = torch.cat([backwards, first_query.squeeze(-2)], dim=-1).contiguous()
    return distances.unfold(-1, seq, 1).flip(-2)
