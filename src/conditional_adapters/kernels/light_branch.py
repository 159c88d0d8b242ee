"""The light branch and the router's scores in one pass over the states.

Computed one after the other, norm, scores, both products of the adapter and the residual carry all
tokens through memory six times and more. One program holds a block of tokens here: it reads them
for the norm, again (now from the cache) for scores and bottleneck, and writes the sum.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import on_device_of

ACTIVATIONS = ("identity", "relu", "gelu", "silu", "tanh")
MAX_ADAPTER_DIM = 128  # a wider bottleneck would not stay in the registers of one program


class Norm(NamedTuple):
    """A norm over the hidden axis, as the models of transformers compute it."""

    kind: str  # "layer", or "rms" without mean and bias
    weight: Tensor
    bias: Tensor | None
    epsilon: float


def light_branch(
    states: Tensor,
    residual: Tensor,
    down: Tensor,
    up: Tensor,
    *,
    activation: str,
    norm: Norm | None,
    router_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Add the adapter's update of the normalised states to `residual`, and score them. No gradient.

    Args:
        states: `[batch, seq, hidden]`, any floating dtype of at most 32 bits.
        residual: The same shape and dtype. Not changed.
        down: `[adapter_dim, hidden]`, `adapter_dim` up to `MAX_ADAPTER_DIM`.
        up: `[hidden, adapter_dim]`.
        activation: One of `ACTIVATIONS`.
        norm: What router and adapter read is the norm of the states; None: the states themselves.
        router_weight: `[hidden]`; None where no score is wanted.

    Returns:
        `residual + act(N(states) down^T) up^T`, and the scores `N(states) @ router_weight`,
        `[batch, seq]`, float32 (nothing in it without `router_weight`). Products are summed in
        float32; what the modules would round between them is rounded here, too.
    """
    kind, weight, bias, epsilon = norm or ("none", None, None, 0.0)
    dtype = states.dtype
    outputs: tuple[Tensor, Tensor] = _light_branch(
        states.contiguous(),
        residual.contiguous(),
        down.to(dtype).contiguous(),
        up.to(dtype).contiguous(),
        activation,
        kind,
        weight,
        bias,
        epsilon,
        None if router_weight is None else router_weight.float().contiguous(),
    )
    return outputs


@triton.jit
def _activate(values, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        values = tl.maximum(values, 0.0)
    elif ACTIVATION == "gelu":
        values = 0.5 * values * (1.0 + tl.erf(values * 0.7071067811865476))
    elif ACTIVATION == "silu":
        values = values * tl.sigmoid(values)
    elif ACTIVATION == "tanh":
        values = 2.0 * tl.sigmoid(2.0 * tl.clamp(values, -15.0, 15.0)) - 1.0
    return values


@triton.jit
def _measure(
    states, rows, is_token, hidden, epsilon,
    NORM: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return mean and inverse deviation of each token, merged from block to block (Chan et al.)."""
    columns = tl.arange(0, BLOCK)
    mean = tl.zeros([BLOCK_TOKENS], dtype=tl.float32)
    squares = tl.zeros([BLOCK_TOKENS], dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        exists = (start + columns < hidden)[None, :]
        values = tl.load(
            states + rows[:, None] + (start + columns)[None, :],
            mask=is_token[:, None] & exists,
            other=0.0,
        ).to(tl.float32)
        if NORM == "layer":
            size = tl.minimum(hidden - start, BLOCK).to(tl.float32)
            own_mean = tl.sum(values, 1) / size
            deviations = tl.where(exists, values - own_mean[:, None], 0.0)
            shift = own_mean - mean
            mean += shift * (size / (start + size))
            squares += tl.sum(deviations * deviations, 1)
            squares += shift * shift * (start * size / (start + size))
        else:
            squares += tl.sum(values * values, 1)
    return mean, tl.rsqrt(squares / hidden + epsilon)


@triton.jit
def _normalise(
    values, mean, scale, norm_weight, norm_bias, places, exists,
    NORM: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Return normalised values in their own type; 0 beyond the last column."""
    weight = tl.load(norm_weight + places, mask=exists, other=0.0)[None, :]
    if NORM == "rms":
        return (values.to(tl.float32) * scale[:, None]).to(values.dtype) * weight
    normalised = (values.to(tl.float32) - mean[:, None]) * scale[:, None] * weight.to(tl.float32)
    if HAS_BIAS:
        normalised += tl.load(norm_bias + places, mask=exists, other=0.0).to(tl.float32)[None, :]
    return normalised.to(values.dtype)


@triton.jit
def _light_branch_kernel(
    states, residual, down, up, norm_weight, norm_bias, router, out, scores,
    num_tokens, hidden, dim, epsilon,
    NORM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROUTER: tl.constexpr,
    ACTIVATION: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    is_token = tokens < num_tokens
    rows = tokens.to(tl.int64) * hidden
    columns, dims = tl.arange(0, BLOCK), tl.arange(0, BLOCK_DIM)
    mean = tl.zeros([BLOCK_TOKENS], dtype=tl.float32)
    scale = mean
    if NORM != "none":
        mean, scale = _measure(states, rows, is_token, hidden, epsilon, NORM, BLOCK_TOKENS, BLOCK)
    inner = tl.zeros([BLOCK_TOKENS, BLOCK_DIM], dtype=tl.float32)
    products = tl.zeros([BLOCK_TOKENS], dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        places = start + columns
        exists = places < hidden
        own = is_token[:, None] & exists[None, :]
        values = tl.load(states + rows[:, None] + places[None, :], mask=own, other=0.0)
        if NORM != "none":
            values = _normalise(
                values, mean, scale, norm_weight, norm_bias, places, exists, NORM, HAS_BIAS
            )
        if HAS_ROUTER:
            direction = tl.load(router + places, mask=exists, other=0.0)
            products += tl.sum(values.to(tl.float32) * direction[None, :], 1)
        weights = tl.load(
            down + dims[None, :] * hidden + places[:, None],
            mask=(dims < dim)[None, :] & exists[:, None],
            other=0.0,
        )
        inner = tl.dot(values, weights, inner, input_precision="ieee")
    if HAS_ROUTER:
        tl.store(scores + tokens, products, mask=is_token)
    dtype = out.dtype.element_ty
    inner = _activate(inner.to(dtype).to(tl.float32), ACTIVATION).to(dtype)
    for start in range(0, hidden, BLOCK):
        places = start + columns
        exists = places < hidden
        own = is_token[:, None] & exists[None, :]
        weights = tl.load(
            up + places[None, :] * dim + dims[:, None],
            mask=(dims < dim)[:, None] & exists[None, :],
            other=0.0,
        )
        kept = tl.load(residual + rows[:, None] + places[None, :], mask=own, other=0.0)
        total = tl.dot(inner, weights, kept.to(tl.float32), input_precision="ieee")
        tl.store(out + rows[:, None] + places[None, :], total.to(dtype), mask=own)


def _launch(num_tokens: int, hidden: int, dim: int) -> dict[str, int]:
    """Return block sizes: smaller blocks where larger ones would leave multiprocessors idle.

    On an H200 these are within a twentieth of the best of 14 settings at the sizes of T5-XL,
    Whisper-large, ViT-L and BERT-base.
    """
    block_tokens = 64 if num_tokens >= 64 * 128 else 32 if num_tokens >= 32 * 128 else 16
    return {
        "BLOCK_TOKENS": block_tokens,
        "BLOCK_DIM": max(triton.next_power_of_2(dim), 16),
        "BLOCK": min(max(triton.next_power_of_2(hidden), 16), 128),
        "num_warps": 4,
    }


@torch.library.custom_op("conditional_adapters::light_branch", mutates_args=())
def _light_branch(
    states: Tensor,
    residual: Tensor,
    down: Tensor,
    up: Tensor,
    activation: str,
    norm: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    epsilon: float,
    router_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    with on_device_of(states):
        batch, seq, hidden = states.shape
        has_router = router_weight is not None
        out = torch.empty_like(residual)
        scores = states.new_empty(batch, seq if has_router else 0, dtype=torch.float32)
        if out.numel():
            launch = _launch(batch * seq, hidden, down.shape[0])
            _light_branch_kernel[(triton.cdiv(batch * seq, launch["BLOCK_TOKENS"]),)](
                states, residual, down, up,
                states if norm_weight is None else norm_weight,
                states if norm_bias is None else norm_bias,
                router_weight if has_router else states,
                out, scores,
                batch * seq, hidden, down.shape[0], epsilon,
                NORM=norm, HAS_BIAS=norm_bias is not None, HAS_ROUTER=has_router,
                ACTIVATION=activation, **launch,
            )  # fmt: skip
    return out, scores


@_light_branch.register_fake
def _(states: Tensor, residual: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    batch, seq, _ = states.shape
    *_, router_weight = others
    scores = states.new_empty(batch, 0 if router_weight is None else seq, dtype=torch.float32)
    return torch.empty_like(residual), scores
