"""The light branch of a layer: norm, router scores, adapter and residual, for all tokens.

    updated = residual + A(N(states)),    scores = N(states) w

`light_branch` is the operator. It has three forms and chooses one: `_reference` calls the modules
one after the other; `_chunked` does that chunk by chunk on a CPU, so that what is normalised stays
in cache; the Triton kernel reads the states once. The last two know what certain norms compute,
without gradient. Everything else takes the reference form, which also calls all hooks.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from . import _backend, _chunks

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "identity": lambda states: states,
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Norm(NamedTuple):
    """A norm over the hidden axis: how to call it, and its formula where that is known."""

    apply: Callable[[Tensor], Tensor]
    kind: Literal["layer", "rms"] | None = None  # None: unknown, or hooked
    weight: Tensor | None = None
    bias: Tensor | None = None
    epsilon: float = 0.0


@runtime_checkable
class Adapter(Protocol):
    """A bottleneck adapter, `residual + act(states down^T) up^T`."""

    @property
    def down(self) -> Float[Tensor, "dim hidden"]:
        """The down-projection."""

    @property
    def up(self) -> Float[Tensor, "hidden dim"]:
        """The up-projection."""

    @property
    def activation(self) -> str:
        """A key of `ACTIVATIONS`."""

    @property
    def has_hooks(self) -> bool:
        """Whether the adapter has to be called on all tokens at once, for its hooks."""

    def __call__(self, states: Tensor, residual: Tensor, /) -> Tensor:
        """Add the adapter's update of each token to `residual`, which is not changed."""


def light_branch(
    states: Float[Tensor, "batch seq hidden"],
    residual: Float[Tensor, "batch seq hidden"],
    adapter: Adapter,
    *,
    norm: Norm | None = None,
    router_weight: Float[Tensor, " hidden"] | None = None,
) -> tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, "batch seq"] | None]:
    """Add the adapter's update of the normalised states to `residual`, and score them.

    Args:
        states: Input of the layer.
        residual: Input of the sum. Not changed.
        adapter: The adapter.
        norm: The norm whose output adapter and router read; None: they read the states.
        router_weight: The router's vector; None where no scores are needed.

    Returns:
        The sum, a new tensor, and the scores in float32 (None without `router_weight`). Forms other
        than the reference differ from it by rounding.

    Source:
        CoDA, arXiv:2304.04947, equation 7 without its last term.
    """
    kernels = _backend.kernels
    if kernels is None and (norm is None or not _is_long(states)):
        return _reference(states, residual, adapter, norm, router_weight)
    has_formula = norm is None or (norm.kind is not None and not _differs(norm, states.dtype))
    if (
        not has_formula
        or adapter.has_hooks
        or torch.is_grad_enabled()
        or states.dtype not in _DTYPES
        or residual.dtype != states.dtype
        or torch.is_autocast_enabled(states.device.type)
    ):
        return _reference(states, residual, adapter, norm, router_weight)
    if kernels is None:
        number = _chunks.num_chunks(states.numel(), states.device)
        if number > 1:
            norm = cast("Norm", norm)
            return _chunked(number, states, residual, adapter, norm, router_weight)
    elif (
        adapter.activation in kernels.ACTIVATIONS
        and adapter.down.shape[0] <= kernels.MAX_ADAPTER_DIM
    ):
        updated, scores = kernels.light_branch(
            states,
            residual,
            adapter.down,
            adapter.up,
            activation=adapter.activation,
            norm=None if norm is None else norm[1:],
            router_weight=router_weight,
        )
        return updated, None if router_weight is None else scores
    return _reference(states, residual, adapter, norm, router_weight)


def score_tokens(
    states: Float[Tensor, "batch seq hidden"], weight: Float[Tensor, "*batch hidden"]
) -> Float[Tensor, "batch seq"]:
    """Return the router's scores in float32, whatever the dtype of the states, with autocast off.

    Args:
        states: Input of the router.
        weight: One vector, `[hidden]`, or one for each example, `[batch, 1, hidden]`.

    Returns:
        `states @ weight`. Equal tokens have equal scores, whatever their position.
    """
    kernels = _backend.kernels
    if kernels is not None and states.dtype != torch.float64 and not torch.is_grad_enabled():
        fused: Tensor = kernels.score(states, weight)
        return fused
    if states.dtype == torch.float64:
        states = states.float()
    with torch.autocast(states.device.type, enabled=False):
        weight = weight.float()
        # A matrix-vector product would round equal tokens differently, by their position.
        if torch.is_grad_enabled() or states.device.type != "cpu":
            # Half precision is widened within the product, without a copy for the backward pass.
            return (states * weight).sum(-1)
        number = _chunks.num_chunks(states.numel(), states.device) if _is_long(states) else 1
        scores = []
        for chunk in (states,) if number == 1 else states.chunk(number, dim=1):
            # On CPUs, a product of mixed dtypes makes two float32 copies.
            wide = chunk if chunk.dtype == torch.float32 else chunk.float()
            product = wide * weight if wide is chunk else wide.mul_(weight)
            scores.append(product.sum(-1))
    return scores[0] if number == 1 else torch.cat(scores, dim=1)


def _reference(
    states: Tensor,
    residual: Tensor,
    adapter: Adapter,
    norm: Norm | None,
    router_weight: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Call norm and adapter as modules."""
    normalised = states if norm is None else norm.apply(states)
    scores = None if router_weight is None else score_tokens(normalised, router_weight)
    return adapter(normalised, residual), scores


def _chunked(
    number: int,
    states: Tensor,
    residual: Tensor,
    adapter: Adapter,
    norm: Norm,
    router_weight: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Compute the branch for one chunk of tokens after the other, into preallocated results."""
    updated = torch.empty_like(residual, memory_format=torch.contiguous_format)
    scores = states.new_empty(states.shape[:2], dtype=torch.float32)
    tokens = (states, residual, updated, scores)
    chunks = zip(*(tensor.flatten(0, 1).chunk(number) for tensor in tokens), strict=True)
    # In half precision products of states that are not normalised may overflow.
    if norm.kind == "layer" or states.dtype == torch.float16:
        for chunk in chunks:
            some, kept, updated_chunk, scores_chunk = (tensor.unsqueeze(0) for tensor in chunk)
            total, products = _reference(some, kept, adapter, norm, router_weight)
            updated_chunk.copy_(total)
            if products is not None:
                scores_chunk.copy_(products)
    else:
        _divide_products(chunks, adapter, norm, router_weight)
    return updated, None if router_weight is None else scores


def _divide_products(
    chunks: Iterable[tuple[Tensor, ...]],
    adapter: Adapter,
    norm: Norm,
    router_weight: Tensor | None,
) -> None:
    """Divide by the root mean square after the products, so that no normalised states are made.

    A norm that divides each token x by its root mean square and multiplies by a vector g commutes
    with a product: `N(x) W = (x / rms(x) * g) W = (x diag(g) W) / rms(x)`. Only rounding differs.
    """
    gain = cast("Tensor", norm.weight)
    down = (adapter.down * gain.float()).to(gain.dtype).t()
    up = adapter.up.to(gain.dtype).t()
    activation = ACTIVATIONS[adapter.activation]
    router = None if router_weight is None else router_weight * gain
    for states, residual, updated, scores in chunks:
        wide = states.float()
        mean_square = torch.linalg.vector_norm(wide, dim=-1).square_().div_(wide.shape[-1])
        factor = mean_square.add_(norm.epsilon).rsqrt_()
        inner = (states @ down).float().mul_(factor.unsqueeze(-1)).to(gain.dtype)
        torch.addmm(residual, activation(inner), up, out=updated)
        if router is not None:
            products = score_tokens(wide.unsqueeze(0), router)
            torch.mul(products.squeeze(0), factor, out=scores)


def _is_long(states: Tensor) -> bool:
    """Whether a batch fills more than one chunk; while tracing its size may be symbolic."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return states.numel() >= _chunks.CHUNK_ELEMENTS


def _differs(norm: Norm, dtype: torch.dtype) -> bool:
    return norm.weight is None or norm.weight.dtype != dtype
