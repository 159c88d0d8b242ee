"""What kernels do with a row of scores that one program holds in registers."""

import triton
import triton.language as tl


@triton.jit
def load_row(logits, seq, BLOCK: tl.constexpr):
    """Return the positions of this program's row, which of them exist, and its scores."""
    columns = tl.arange(0, BLOCK)
    exists = columns < seq
    row = tl.program_id(0).to(tl.int64)
    scores = tl.load(logits + row * seq + columns, mask=exists, other=-float("inf"))
    return columns, exists, scores


@triton.jit
def largest(scores, exists, count):
    """Mark the `count` largest scores, among equal ones the earlier first; return the last, too.

    The bits of a float, read as an integer, order numbers by value once those of negative ones
    are flipped. The count-th largest is then found bit by bit, from the sign down.
    """
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # + 0.0 makes one zero of both
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    enough = tl.sum(((bits >= 0) & exists).to(tl.int32)) >= count
    threshold = tl.where(enough, 0, -2147483648).to(tl.int32)
    for step in range(31):
        candidate = threshold | (1 << (30 - step))
        enough = tl.sum(((bits >= candidate) & exists).to(tl.int32)) >= count
        threshold = tl.where(enough, candidate, threshold)
    above = (bits > threshold) & exists
    ties = (bits == threshold) & exists
    num_ties = count - tl.sum(above.to(tl.int32))
    chosen = above | (ties & (tl.cumsum(ties.to(tl.int32), 0) <= num_ties))
    smallest = (threshold ^ ((threshold >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return chosen, smallest


@triton.jit
def relax(scores, is_selectable, chosen, smallest, count, epsilon):
    """Return the soft top-k weights of a row, of which the `count` largest scores are known.

    A weight is `min(1, u e)` with `e = exp(s / epsilon)` and one u per row. If the tokens in a set
    S have weight 1, u is `(count - |S|) / sum of the others' e`; for any other set this is at most
    u. So it starts with all chosen tokens but the last and, by Newton's method, never passes u.
    """
    # Relative to the count-th score no digit is lost, and only saturated tokens could overflow.
    exponentials = tl.exp(tl.minimum((scores - smallest) / epsilon, 80.0))
    exponentials = tl.where(is_selectable, exponentials, 0.0)
    scale = 1.0 / (1.0 + tl.sum(tl.where(chosen, 0.0, exponentials)))
    is_saturated = exponentials * scale >= 1.0
    num_saturated = tl.sum(is_saturated.to(tl.int32))
    num_before = -1
    while (num_saturated > num_before) & (num_saturated < count):
        rest = tl.sum(tl.where(is_saturated, 0.0, exponentials))
        scale = tl.maximum(scale, (count - num_saturated).to(tl.float32) / rest)
        num_before = num_saturated
        is_saturated = exponentials * scale >= 1.0
        num_saturated = tl.sum(is_saturated.to(tl.int32))
    return tl.minimum(exponentials * scale, 1.0)
