"""Token selection and exact soft top-k, one program per example.

A program holds the scores of an example in registers, and finds the threshold, the indices and the
weights in one launch.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Context, on_device_of, sequence_launch


@torch.library.custom_op("conditional_adapters::select", mutates_args=())
def select(scores: Tensor, top_k: int, budgets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Select the largest scores of each example."""
    with on_device_of(scores):
        scores, (batch, seq) = scores.float().contiguous(), scores.shape
        if budgets is None:
            budgets = torch.full((batch,), top_k, device=scores.device)
        indices = scores.new_empty(batch, top_k, dtype=torch.int64)
        is_selected = torch.empty_like(indices, dtype=torch.bool)
        if batch:
            _select_kernel[(batch,)](
                scores, budgets.int().contiguous(), indices, is_selected, seq, top_k,
                **sequence_launch(seq),
            )  # fmt: skip
    return indices, is_selected


@select.register_fake
def _(scores: Tensor, top_k: int, budgets: Tensor | None) -> tuple[Tensor, Tensor]:
    indices = scores.new_empty(scores.shape[0], top_k, dtype=torch.int64)
    return indices, torch.empty_like(indices, dtype=torch.bool)


@torch.library.custom_op("conditional_adapters::select_and_weigh", mutates_args=())
def select_and_weigh(scores: Tensor, top_k: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Select the largest scores of each example and weigh them, without gradient."""
    with on_device_of(scores):
        scores, (batch, seq) = scores.float().contiguous(), scores.shape
        indices = scores.new_empty(batch, top_k, dtype=torch.int64)
        weights = scores.new_empty(batch, top_k)
        if batch:
            _select_and_weigh_kernel[(batch,)](
                scores, indices, weights, seq, top_k, epsilon, **sequence_launch(seq)
            )
    return indices, weights


@select_and_weigh.register_fake
def _(scores: Tensor, top_k: int, epsilon: float) -> tuple[Tensor, Tensor]:
    indices = scores.new_empty(scores.shape[0], top_k, dtype=torch.int64)
    return indices, torch.empty_like(indices, dtype=torch.float32)


@torch.library.custom_op("conditional_adapters::soft_topk", mutates_args=())
def soft_topk(logits: Tensor, budgets: Tensor, epsilon: float) -> Tensor:
    """Solve the soft top-k problem.

    Args:
        logits: Scores, `[*batch, seq]`, float32; -inf where a token may not be selected.
        budgets: Tokens to select, `[*batch]`, whole numbers >= 0 of any dtype.
        epsilon: Temperature, > 0.

    Returns:
        The weights. Differentiable in `logits`.
    """
    with on_device_of(logits):
        weights, seq = logits.new_empty(logits.shape), logits.shape[-1]
        if weights.numel():
            _soft_topk_kernel[(weights.numel() // seq,)](
                logits.contiguous(), budgets.int().contiguous(), weights, seq, epsilon,
                **sequence_launch(seq),
            )  # fmt: skip
    return weights


@soft_topk.register_fake
def _(logits: Tensor, budgets: Tensor, epsilon: float) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.custom_op("conditional_adapters::soft_topk_backward", mutates_args=())
def _soft_topk_backward(weights: Tensor, grad: Tensor, epsilon: float) -> Tensor:
    with on_device_of(weights):
        out, seq = weights.new_empty(weights.shape), weights.shape[-1]
        if out.numel():
            _soft_topk_backward_kernel[(out.numel() // seq,)](
                weights.contiguous(), grad.contiguous(), out, seq, epsilon, **sequence_launch(seq)
            )
    return out


@_soft_topk_backward.register_fake
def _(weights: Tensor, grad: Tensor, epsilon: float) -> Tensor:
    return weights.new_empty(weights.shape)


def _save_weights(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.epsilon = inputs[2]


def _differentiate(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
    return _soft_topk_backward(ctx.saved_tensors[0], grad, ctx.epsilon), None, None


soft_topk.register_autograd(_differentiate, setup_context=_save_weights)


@triton.jit
def _load_scores(logits, seq, BLOCK: tl.constexpr):
    """Return the positions of this program's example, which of them exist, and the scores."""
    positions = tl.arange(0, BLOCK)
    exists = positions < seq
    start = tl.program_id(0).to(tl.int64) * seq
    return positions, exists, tl.load(logits + start + positions, mask=exists, other=-float("inf"))


@triton.jit
def _largest(scores, exists, count):
    """Mark the `count` largest scores, the earlier of equal ones first, and return the smallest.

    The bits of a float, read as an integer, order numbers by value once those of negative ones
    are flipped. The count-th largest is then found bit by bit, from the sign down.
    """
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # + 0.0 maps -0.0 to 0.0
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
    selected = above | (ties & (tl.cumsum(ties.to(tl.int32), 0) <= num_ties))
    smallest = (threshold ^ ((threshold >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return selected, smallest


@triton.jit
def _weigh(scores, is_selectable, selected, smallest, count, epsilon):
    """Return the soft top-k weights of an example, given its `count` largest scores.

    A weight is `min(1, u e)` with `e = exp(s / epsilon)` and one u per example. If the tokens in a
    set S have weight 1, u is `(count - |S|) / sum of the others' e`; for any other set this is at
    most u. Newton's method starts with all selected tokens but the last in S, and never passes u.
    """
    # Differences to the count-th score lose no digits, and only saturated tokens could overflow.
    exponentials = tl.exp(tl.minimum((scores - smallest) / epsilon, 80.0))
    exponentials = tl.where(is_selectable, exponentials, 0.0)
    scale = 1.0 / (1.0 + tl.sum(tl.where(selected, 0.0, exponentials)))
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


@triton.jit
def _select_kernel(
    logits, budgets, indices, is_selected, seq, top_k, BLOCK: tl.constexpr
):  # fmt: skip
    positions, exists, scores = _load_scores(logits, seq, BLOCK)
    example = tl.program_id(0).to(tl.int64)
    selected, _ = _largest(scores, exists, top_k)
    within, _ = _largest(scores, exists, tl.load(budgets + example))
    slots = example * top_k + tl.cumsum(selected.to(tl.int32), 0) - 1
    tl.store(indices + slots, positions.to(tl.int64), mask=selected)
    tl.store(is_selected + slots, within, mask=selected)


@triton.jit
def _select_and_weigh_kernel(
    logits, indices, weights, seq, top_k, epsilon, BLOCK: tl.constexpr
):  # fmt: skip
    positions, exists, scores = _load_scores(logits, seq, BLOCK)
    selected, smallest = _largest(scores, exists, top_k)
    soft = _weigh(scores, exists, selected, smallest, top_k, epsilon)
    slots = tl.program_id(0).to(tl.int64) * top_k + tl.cumsum(selected.to(tl.int32), 0) - 1
    tl.store(indices + slots, positions.to(tl.int64), mask=selected)
    tl.store(weights + slots, soft, mask=selected)


@triton.jit
def _soft_topk_kernel(logits, budgets, weights, seq, epsilon, BLOCK: tl.constexpr):
    positions, exists, scores = _load_scores(logits, seq, BLOCK)
    example = tl.program_id(0).to(tl.int64)
    is_selectable = scores > -float("inf")
    num_selectable = tl.sum(is_selectable.to(tl.int32))
    budget = tl.load(budgets + example)
    if budget >= num_selectable:
        soft = is_selectable.to(tl.float32)
    elif budget <= 0:
        soft = tl.zeros_like(scores)
    else:
        selected, smallest = _largest(scores, exists, budget)
        soft = _weigh(scores, is_selectable, selected, smallest, budget, epsilon)
    tl.store(weights + example * seq + positions, soft, mask=exists)


@triton.jit
def _soft_topk_backward_kernel(weights, grads, out, seq, epsilon, BLOCK: tl.constexpr):
    positions = tl.arange(0, BLOCK)
    exists = positions < seq
    offsets = tl.program_id(0).to(tl.int64) * seq + positions
    soft = tl.load(weights + offsets, mask=exists, other=0.0)
    grad = tl.load(grads + offsets, mask=exists, other=0.0)
    free = tl.where(soft < 1.0, soft, 0.0)
    mean = tl.sum(free * grad) / tl.maximum(tl.sum(free), 1.17549435e-38)
    tl.store(out + offsets, free * (grad - mean) / epsilon, mask=exists)
