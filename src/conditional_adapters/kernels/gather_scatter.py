"""Gather the selected tokens and add their updates, one program per token and block of it."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Context, hidden_launch, on_device_of


@torch.library.custom_op("conditional_adapters::gather_tokens", mutates_args=())
def gather_tokens(values: Tensor, selected_indices: Tensor) -> Tensor:
    """Gather the selected tokens of each example."""
    with on_device_of(values):
        _, seq, hidden = values.shape
        out = values.new_empty(*selected_indices.shape, hidden)
        _launch(_gather_kernel, (values, selected_indices, out), out, seq)
    return out


@gather_tokens.register_fake
def _(values: Tensor, selected_indices: Tensor) -> Tensor:
    return values.new_empty(*selected_indices.shape, values.shape[-1])


@torch.library.custom_op("conditional_adapters::place_tokens", mutates_args=())
def _place_tokens(grad: Tensor, selected_indices: Tensor, seq: int) -> Tensor:
    with on_device_of(grad):
        out = grad.new_zeros(grad.shape[0], seq, grad.shape[2])
        _launch(_place_kernel, (grad, selected_indices, out), grad, seq)
    return out


@_place_tokens.register_fake
def _(grad: Tensor, selected_indices: Tensor, seq: int) -> Tensor:
    return grad.new_empty(grad.shape[0], seq, grad.shape[2])


@torch.library.custom_op("conditional_adapters::add_weighted_update", mutates_args=())
def add_weighted_update(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    """Add `weights * (outputs - inputs)` to the selected tokens of a copy of `base`."""
    out = base.clone(memory_format=torch.contiguous_format)
    _add_weighted_update_(out, selected_indices, outputs, inputs, weights)
    return out


@add_weighted_update.register_fake
def _(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    return base.new_empty(base.shape)


def add_weighted_update_(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> Tensor:
    """In-place form of `add_weighted_update`, without gradient."""
    base = base.contiguous()
    _add_weighted_update_(base, selected_indices, outputs, inputs, weights)
    return base


@torch.library.custom_op("conditional_adapters::add_weighted_update_", mutates_args=("base",))
def _add_weighted_update_(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> None:
    with on_device_of(base):
        tensors = (base, selected_indices, outputs, inputs, weights.float())
        _launch(_update_kernel, tensors, outputs, base.shape[1])


@_add_weighted_update_.register_fake
def _(
    base: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> None:
    return None


@torch.library.custom_op("conditional_adapters::add_weighted_update_backward", mutates_args=())
def _add_weighted_update_backward(
    grad: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    with on_device_of(grad):
        batch, top_k, hidden = outputs.shape
        grad_outputs = outputs.new_empty(outputs.shape)
        grad_weights = weights.new_empty(weights.shape)
        if outputs.numel():
            tensors = (grad, selected_indices, outputs, inputs, weights.float())
            _update_backward_kernel[(batch * top_k,)](
                *(tensor.contiguous() for tensor in tensors), grad_outputs, grad_weights,
                grad.shape[1], hidden, top_k, **hidden_launch(hidden),
            )  # fmt: skip
    return grad_outputs, grad_weights


@_add_weighted_update_backward.register_fake
def _(
    grad: Tensor, selected_indices: Tensor, outputs: Tensor, inputs: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    return outputs.new_empty(outputs.shape), weights.new_empty(weights.shape)


def _launch(kernel: Any, tensors: tuple[Tensor, ...], selected: Tensor, seq: int) -> None:  # noqa: ANN401
    """Run a kernel on blocks of the selected tokens, which are `[batch, k, hidden]`."""
    if selected.numel():
        batch, top_k, hidden = selected.shape
        launch = hidden_launch(hidden)
        kernel[batch * top_k, triton.cdiv(hidden, launch["BLOCK"])](
            *(tensor.contiguous() for tensor in tensors), seq, hidden, top_k, **launch
        )


def _save_gather(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, selected_indices = inputs
    ctx.save_for_backward(selected_indices)
    ctx.seq = values.shape[1]


def _differentiate_gather(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
    return _place_tokens(grad, ctx.saved_tensors[0], ctx.seq), None


def _save_update(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate_update(
    ctx: Context, grad: Tensor
) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
    grad_outputs, grad_weights = _add_weighted_update_backward(grad, *ctx.saved_tensors)
    return grad, None, grad_outputs, -grad_outputs, grad_weights


gather_tokens.register_autograd(_differentiate_gather, setup_context=_save_gather)
add_weighted_update.register_autograd(_differentiate_update, setup_context=_save_update)


@triton.jit
def _offsets(indices, seq, hidden, top_k, BLOCK: tl.constexpr):
    """Return the offsets of this block in the selected tokens and in all, and which exist."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = token // top_k * seq + tl.load(indices + token)
    return token * hidden + columns, source * hidden + columns, columns < hidden


@triton.jit
def _gather_kernel(values, indices, out, seq, hidden, top_k, BLOCK: tl.constexpr):
    selected, source, exists = _offsets(indices, seq, hidden, top_k, BLOCK)
    tl.store(out + selected, tl.load(values + source, mask=exists), mask=exists)


@triton.jit
def _place_kernel(grads, indices, out, seq, hidden, top_k, BLOCK: tl.constexpr):
    selected, source, exists = _offsets(indices, seq, hidden, top_k, BLOCK)
    tl.store(out + source, tl.load(grads + selected, mask=exists), mask=exists)


@triton.jit
def _update_kernel(
    base, indices, outputs, inputs, weights, seq, hidden, top_k, BLOCK: tl.constexpr
):  # fmt: skip
    selected, source, exists = _offsets(indices, seq, hidden, top_k, BLOCK)
    weight = tl.load(weights + tl.program_id(0).to(tl.int64))
    output = tl.load(outputs + selected, mask=exists).to(tl.float32)
    state = tl.load(inputs + selected, mask=exists).to(tl.float32)
    before = tl.load(base + source, mask=exists).to(tl.float32)
    total = before + weight * (output - state)
    tl.store(base + source, total.to(base.dtype.element_ty), mask=exists)


@triton.jit
def _update_backward_kernel(
    grads, indices, outputs, inputs, weights, grad_outputs, grad_weights,
    seq, hidden, top_k, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loop over a whole token, because the gradient of its weight is one sum."""
    token = tl.program_id(0).to(tl.int64)
    source = token // top_k * seq + tl.load(indices + token)
    weight = tl.load(weights + token)
    products = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        exists = columns < hidden
        selected = token * hidden + columns
        grad = tl.load(grads + source * hidden + columns, mask=exists, other=0.0).to(tl.float32)
        output = tl.load(outputs + selected, mask=exists, other=0.0).to(tl.float32)
        state = tl.load(inputs + selected, mask=exists, other=0.0).to(tl.float32)
        products += grad * (output - state)
        grad_output = (weight * grad).to(grad_outputs.dtype.element_ty)
        tl.store(grad_outputs + selected, grad_output, mask=exists)
    tl.store(grad_weights + token, tl.sum(products))
