"""Exact soft top-k, forward and backward, one program per row."""

from typing import Any, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import on_device_of, row_launch
from ._ranking import largest, load_row, relax

_Context: TypeAlias = Any  # torch does not declare what a function may store on it


def soft_topk(logits: Tensor, budgets: Tensor, epsilon: float) -> Tensor:
    """Solve the soft top-k problem.

    Args:
        logits: Scores, `[*batch, seq]`, float32; -inf where a token may not be selected.
        budgets: Tokens to select of each row, `[*batch]`, integers >= 0.
        epsilon: Temperature, > 0.

    Returns:
        The weights. Differentiable in `logits`.
    """
    rows = logits.reshape(-1, logits.shape[-1]).contiguous()
    weights: Tensor = _soft_topk(rows, budgets.reshape(-1).int(), epsilon)
    return weights.view(logits.shape)


@triton.jit
def _forward_kernel(logits, budgets, weights, seq, epsilon, BLOCK: tl.constexpr):
    columns, exists, scores = load_row(logits, seq, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    is_selectable = scores > -float("inf")
    num_selectable = tl.sum(is_selectable.to(tl.int32))
    wanted = tl.load(budgets + row)
    if wanted >= num_selectable:
        soft = is_selectable.to(tl.float32)
    elif wanted <= 0:
        soft = tl.zeros_like(scores)
    else:
        chosen, smallest = largest(scores, exists, wanted)
        soft = relax(scores, is_selectable, chosen, smallest, wanted, epsilon)
    tl.store(weights + row * seq + columns, soft, mask=exists)


@triton.jit
def _backward_kernel(weights, grads, out, seq, epsilon, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    exists = columns < seq
    offsets = tl.program_id(0).to(tl.int64) * seq + columns
    soft = tl.load(weights + offsets, mask=exists, other=0.0)
    grad = tl.load(grads + offsets, mask=exists, other=0.0)
    free = tl.where(soft < 1.0, soft, 0.0)
    mean = tl.sum(free * grad) / tl.maximum(tl.sum(free), 1.17549435e-38)
    tl.store(out + offsets, free * (grad - mean) / epsilon, mask=exists)


@torch.library.custom_op("conditional_adapters::soft_topk", mutates_args=())
def _soft_topk(logits: Tensor, budgets: Tensor, epsilon: float) -> Tensor:
    with on_device_of(logits):
        weights = torch.empty_like(logits)
        num_rows, seq = logits.shape
        if weights.numel():
            _forward_kernel[(num_rows,)](logits, budgets, weights, seq, epsilon, **row_launch(seq))
    return weights


@_soft_topk.register_fake
def _(logits: Tensor, budgets: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(logits)


@torch.library.custom_op("conditional_adapters::soft_topk_backward", mutates_args=())
def _soft_topk_backward(weights: Tensor, grad: Tensor, epsilon: float) -> Tensor:
    with on_device_of(weights):
        grad, out = grad.contiguous(), torch.empty_like(weights)
        num_rows, seq = weights.shape
        if out.numel():
            _backward_kernel[(num_rows,)](weights, grad, out, seq, epsilon, **row_launch(seq))
    return out


@_soft_topk_backward.register_fake
def _(weights: Tensor, grad: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(weights)


def _keep(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.epsilon = inputs[2]


def _differentiate(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
    return _soft_topk_backward(ctx.saved_tensors[0], grad, ctx.epsilon), None, None


_soft_topk.register_autograd(_differentiate, setup_context=_keep)
