"""Find the largest scores of a row, by comparing integers instead of floats.

Read as an integer, the bits of a float order positive numbers by value and negative ones the other
way round; flipping all bits of a negative number but its sign puts both in order. On the CPU a
comparison of floats has to look out for NaN, and `topk` on integers takes a third less time.

Equal scores are not rare: where positions are not in the embeddings (T5, rotary encoders), equal
tokens of a text have equal scores in the first layer. `topk` cuts such ties anywhere. That does not
matter to soft weights, but a row could choose other tokens alone than in a padded batch.

Exported programs may not read a float as an integer (ONNX has no such operator before opset 26), so
they compare floats; a stable sort keeps equal scores in order.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def largest_indices(scores: Float[Tensor, "*batch seq"], count: int) -> Int[Tensor, "*batch count"]:
    """Return the positions of the `count` largest scores, from the largest down; ties anyhow."""
    if torch.compiler.is_exporting():
        return scores.topk(count).indices
    return _ordered_bits(scores).topk(count).indices


def first_largest_indices(
    scores: Float[Tensor, "*batch seq"], count: int
) -> Int[Tensor, "*batch count"]:
    """Return the same, and among equal scores the earlier token first."""
    # float64 leaves no room for a position.
    if scores.dtype == torch.float64 or torch.compiler.is_exporting():
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    # The position in the lower half of an integer twice as long; + 0.0 makes one zero of both.
    ordered = _ordered_bits(scores.float() + 0.0).long()
    seq = scores.shape[-1]
    earlier_first = torch.arange(seq - 1, -1, -1, device=scores.device)
    return ((ordered << 32) | earlier_first).topk(count).indices


def _ordered_bits(scores: Float[Tensor, "*batch seq"]) -> Int[Tensor, "*batch seq"]:
    dtype = _INTEGER_OF_SIZE[scores.element_size()]
    bits, limits = scores.view(dtype), torch.iinfo(dtype)
    sign = bits >> (limits.bits - 1)  # 0, or -1 for negative numbers
    return bits ^ (sign & limits.max)
