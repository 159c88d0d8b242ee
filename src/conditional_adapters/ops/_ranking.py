"""Find the largest scores of a row; among equal ones the earlier token comes first.

Equal scores are not rare: where positions are not in the embeddings (T5, rotary encoders), equal
tokens of a text have equal scores in the first layer. `topk` cuts such ties anywhere, so that a row
could choose differently alone and in a padded batch. Here every score becomes an integer that
grows with it, with the position in its lower half; no two of them are equal. On a CPU integers are
also faster to compare than floats, which may be NaN.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LARGEST = torch.iinfo(torch.int32).max


def largest_indices(scores: Float[Tensor, "*batch seq"], count: int) -> Int[Tensor, "*batch count"]:
    """Return the positions of the `count` largest scores, from the largest down."""
    if scores.dtype == torch.float64:  # no room for a position
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0 makes one zero of both
    # The bits of positive floats are in order; those of negative ones the other way round.
    ordered = bits ^ ((bits >> 31) & _LARGEST)
    seq = scores.shape[-1]
    earlier_first = torch.arange(seq - 1, -1, -1, device=scores.device)
    return ((ordered.long() << 32) | earlier_first).topk(count).indices
