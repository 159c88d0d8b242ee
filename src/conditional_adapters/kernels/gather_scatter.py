"""Rows of chosen tokens, carried there and back: one program per chosen token and part of it."""

from typing import Any, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import hidden_launch, on_device_of

_Context: TypeAlias = Any  # torch does not declare what a function may store on it


def gather_rows(values: Tensor, selected_indices: Tensor) -> Tensor:
    """Take the chosen tokens of each row.

    Args:
        values: `[batch, seq, hidden]`, any dtype.
        selected_indices: `[batch, k]`, distinct in each row.

    Returns:
        `[batch, k, hidden]`. Differentiable in `values`.
    """
    rows: Tensor = _gather_rows(values.contiguous(), selected_indices.contiguous())
    return rows


def add_weighted_update(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    """Return `base` with `weights * (outputs - inputs)` added to the chosen tokens.

    Args:
        base: `[batch, seq, hidden]`.
        selected_indices: `[batch, k]`, distinct in each row.
        outputs: What the heavy branch made of the chosen tokens, `[batch, k, hidden]`.
        inputs: What it was given, in the same shape.
        weights: `[batch, k]`, float32.

    Returns:
        A new tensor. The sum is computed in float32 and rounded once. Differentiable in all but
        the indices.
    """
    out: Tensor = _add_weighted_update(
        base.contiguous(),
        selected_indices.contiguous(),
        outputs.contiguous(),
        inputs.contiguous(),
        weights.float().contiguous(),
    )
    return out


def add_weighted_update_(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    """Do the same in the memory of `base`, without gradient."""
    base = base.contiguous()
    _add_weighted_update_(
        base,
        selected_indices.contiguous(),
        outputs.contiguous(),
        inputs.contiguous(),
        weights.float().contiguous(),
    )
    return base


@triton.jit
def _locate(indices, seq, hidden, top_k, BLOCK: tl.constexpr):
    """Return this program's offsets among the chosen tokens and among all, and which exist."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = token // top_k * seq + tl.load(indices + token)
    return token * hidden + columns, place * hidden + columns, columns < hidden


@triton.jit
def _gather_kernel(values, indices, out, seq, hidden, top_k, BLOCK: tl.constexpr):
    chosen, place, exists = _locate(indices, seq, hidden, top_k, BLOCK)
    tl.store(out + chosen, tl.load(values + place, mask=exists), mask=exists)


@triton.jit
def _place_kernel(grads, indices, out, seq, hidden, top_k, BLOCK: tl.constexpr):
    chosen, place, exists = _locate(indices, seq, hidden, top_k, BLOCK)
    tl.store(out + place, tl.load(grads + chosen, mask=exists), mask=exists)


@triton.jit
def _update_kernel(
    base, indices, outputs, inputs, weights, seq, hidden, top_k, BLOCK: tl.constexpr
):  # fmt: skip
    chosen, place, exists = _locate(indices, seq, hidden, top_k, BLOCK)
    weight = tl.load(weights + tl.program_id(0).to(tl.int64))
    new = tl.load(outputs + chosen, mask=exists).to(tl.float32)
    old = tl.load(inputs + chosen, mask=exists).to(tl.float32)
    kept = tl.load(base + place, mask=exists).to(tl.float32)
    total = kept + weight * (new - old)
    tl.store(base + place, total.to(base.dtype.element_ty), mask=exists)


@triton.jit
def _update_backward_kernel(
    grads, indices, outputs, inputs, weights, grad_outputs, grad_weights,
    seq, hidden, top_k, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk along a whole token: the gradient of its weight is one sum."""
    token = tl.program_id(0).to(tl.int64)
    place = token // top_k * seq + tl.load(indices + token)
    weight = tl.load(weights + token)
    products = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        exists = columns < hidden
        chosen = token * hidden + columns
        grad = tl.load(grads + place * hidden + columns, mask=exists, other=0.0).to(tl.float32)
        new = tl.load(outputs + chosen, mask=exists, other=0.0).to(tl.float32)
        old = tl.load(inputs + chosen, mask=exists, other=0.0).to(tl.float32)
        products += grad * (new - old)
        grad_output = (weight * grad).to(grad_outputs.dtype.element_ty)
        tl.store(grad_outputs + chosen, grad_output, mask=exists)
    tl.store(grad_weights + token, tl.sum(products))


def _grid(hidden: int, num_tokens: int, block: int) -> tuple[int, int]:
    return num_tokens, triton.cdiv(hidden, block)


@torch.library.custom_op("conditional_adapters::gather_rows", mutates_args=())
def _gather_rows(values: Tensor, selected_indices: Tensor) -> Tensor:
    with on_device_of(values):
        (batch, top_k), (_, seq, hidden) = selected_indices.shape, values.shape
        out = values.new_empty(batch, top_k, hidden)
        if out.numel():
            launch = hidden_launch(hidden)
            grid = _grid(hidden, batch * top_k, launch["BLOCK"])
            _gather_kernel[grid](values, selected_indices, out, seq, hidden, top_k, **launch)
    return out


@_gather_rows.register_fake
def _(values: Tensor, selected_indices: Tensor) -> Tensor:
    return values.new_empty(*selected_indices.shape, values.shape[-1])


@torch.library.custom_op("conditional_adapters::place_rows", mutates_args=())
def _place_rows(grad: Tensor, selected_indices: Tensor, seq: int) -> Tensor:
    with on_device_of(grad):
        batch, top_k, hidden = grad.shape
        grad, out = grad.contiguous(), grad.new_zeros(batch, seq, hidden)
        if grad.numel():
            launch = hidden_launch(hidden)
            grid = _grid(hidden, batch * top_k, launch["BLOCK"])
            _place_kernel[grid](grad, selected_indices, out, seq, hidden, top_k, **launch)
    return out


@_place_rows.register_fake
def _(grad: Tensor, selected_indices: Tensor, seq: int) -> Tensor:
    return grad.new_empty(grad.shape[0], seq, grad.shape[2])


@torch.library.custom_op("conditional_adapters::add_weighted_update_", mutates_args=("base",))
def _add_weighted_update_(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> None:
    with on_device_of(base):
        batch, top_k, hidden = outputs.shape
        if outputs.numel():
            launch = hidden_launch(hidden)
            _update_kernel[_grid(hidden, batch * top_k, launch["BLOCK"])](
                base, selected_indices, outputs, inputs, weights,
                base.shape[1], hidden, top_k, **launch,
            )  # fmt: skip


@_add_weighted_update_.register_fake
def _(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> None:
    return None


@torch.library.custom_op("conditional_adapters::add_weighted_update", mutates_args=())
def _add_weighted_update(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    out = base.clone()
    _add_weighted_update_(out, selected_indices, outputs, inputs, weights)
    return out


@_add_weighted_update.register_fake
def _(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    return torch.empty_like(base)


@torch.library.custom_op("conditional_adapters::add_weighted_update_backward", mutates_args=())
def _add_weighted_update_backward(
    grad: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    with on_device_of(grad):
        batch, top_k, hidden = outputs.shape
        grad_outputs, grad_weights = torch.empty_like(outputs), torch.empty_like(weights)
        if outputs.numel():
            _update_backward_kernel[(batch * top_k,)](
                grad.contiguous(), selected_indices, outputs, inputs, weights,
                grad_outputs, grad_weights,
                grad.shape[1], hidden, top_k, **hidden_launch(hidden),
            )  # fmt: skip
    return grad_outputs, grad_weights


@_add_weighted_update_backward.register_fake
def _(
    grad: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(outputs), torch.empty_like(weights)


def _keep_gather(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, selected_indices = inputs
    ctx.save_for_backward(selected_indices)
    ctx.seq = values.shape[1]


def _differentiate_gather(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
    return _place_rows(grad, ctx.saved_tensors[0], ctx.seq), None


def _keep_update(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate_update(
    ctx: _Context, grad: Tensor
) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
    grad_outputs, grad_weights = _add_weighted_update_backward(grad, *ctx.saved_tensors)
    return grad, None, grad_outputs, -grad_outputs, grad_weights


_gather_rows.register_autograd(_differentiate_gather, setup_context=_keep_gather)
_add_weighted_update.register_autograd(_differentiate_update, setup_context=_keep_update)
