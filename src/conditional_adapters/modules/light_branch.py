"""Norm, scores and adapter of a layer in one pass over the states, where that computes the same.

On a GPU one kernel does it. It knows what a norm of torch or transformers does, not how a module
came by it: whatever it does not know (other norms, autocast, wide bottlenecks, gradients) is
computed module by module. On a CPU a long batch is computed part by part: what a norm makes of a
part stays in cache, what it makes of all tokens does not. A norm that only divides does so after
the products, where there is less to divide.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..ops import active_kernels, num_parts, score_tokens
from ._subclass import DynamicSubclass
from .adapter import ACTIVATIONS, ParallelAdapter
from .switchable import SwitchableModule

if TYPE_CHECKING:
    from ..kernels import Norm

# Norms of transformers that divide by the root mean square, round, and multiply with the weight.
# Others add 1 to the weight or round elsewhere.
_ROOT_MEAN_SQUARE = {
    "T5LayerNorm",
    "MT5LayerNorm",
    "UMT5LayerNorm",
    "Pix2StructLayerNorm",
    "EuroBertRMSNorm",
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def light_branch(
    adapter: ParallelAdapter,
    norm: nn.Module | None,
    states: Tensor,
    residual: Tensor,
    router_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Add the adapter's update of the normalised states to `residual`, and score them.

    Args:
        adapter: The light branch.
        norm: The layer's own first norm; None if the adapter reads the states themselves.
        states: `[batch, seq, hidden]`.
        residual: What the adapter adds to. Not changed.
        router_weight: `[hidden]`; None where no score is wanted.

    Returns:
        The sum and the scores, or None where it has to be done module by module.
    """
    norm = None if isinstance(norm, nn.Identity) else norm
    kernels, number = active_kernels(), num_parts(states.numel(), states.device)
    if kernels is None and (number == 1 or norm is None):
        return None
    if torch.is_grad_enabled() or states.dtype not in _DTYPES:
        return None
    is_known = norm is None or _is_known(norm, states.dtype)
    is_plain = residual.dtype == states.dtype and not torch.is_autocast_enabled(states.device.type)
    if not (is_known and is_plain):
        return None
    if kernels is None:
        modules = adapter, cast("nn.Module", norm)
        if any(map(_is_hooked, modules)):
            return None
        return _by_parts(number, *modules, states, residual, router_weight)
    if adapter.activation not in kernels.ACTIVATIONS:
        return None
    if adapter.down.shape[0] > kernels.MAX_ADAPTER_DIM:
        return None
    updated, scores = kernels.light_branch(
        states,
        residual,
        adapter.down,
        adapter.up,
        activation=adapter.activation,
        norm=norm and _describe(norm),
        router_weight=router_weight,
    )
    return updated, scores


def _by_parts(
    number: int,
    adapter: ParallelAdapter,
    norm: nn.Module,
    states: Tensor,
    residual: Tensor,
    router_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Go through the tokens part by part."""
    updated = torch.empty_like(residual, memory_format=torch.contiguous_format)
    scores = states.new_empty(states.shape[:2], dtype=torch.float32)
    tokens = (states, residual, updated, scores)
    parts = zip(*(tensor.flatten(0, 1).chunk(number) for tensor in tokens), strict=True)
    module, kind = _computing(norm)
    # In half precision products of what is not normalised may overflow.
    if kind is nn.LayerNorm or states.dtype == torch.float16:
        _run_modules(parts, adapter, norm, router_weight)
    else:
        _divide_products(parts, adapter, module, router_weight)
    return updated, scores


def _run_modules(
    parts: Iterable[tuple[Tensor, ...]],
    adapter: ParallelAdapter,
    norm: nn.Module,
    router_weight: Tensor | None,
) -> None:
    """Let the modules compute from states and residual of each part its sum and scores."""
    for part in parts:
        states, residual, updated, scores = (tensor.unsqueeze(0) for tensor in part)
        normalised = norm(states)
        updated.copy_(adapter(normalised, residual))
        if router_weight is not None:
            scores.copy_(score_tokens(normalised, router_weight))


def _divide_products(
    parts: Iterable[tuple[Tensor, ...]],
    adapter: ParallelAdapter,
    norm: nn.Module,
    router_weight: Tensor | None,
) -> None:
    """Divide by the root mean square after the products, so that nothing normalised is made.

    A norm that scales each token x and then each of its elements by g commutes with a product:
    `N(x) W = (x / rms(x) * g) W = (x diag(g) W) / rms(x)`. Only the rounding differs.
    """
    gain, epsilon = cast("Tensor", norm.weight), cast("float", norm.variance_epsilon)
    down = (adapter.down * gain.float()).to(gain.dtype).t()
    up = adapter.up.to(gain.dtype).t()
    activation = ACTIVATIONS[adapter.activation]
    router = None if router_weight is None else router_weight * gain
    for states, residual, updated, scores in parts:
        wide = states.float()
        mean_square = torch.linalg.vector_norm(wide, dim=-1).square_().div_(wide.shape[-1])
        factor = mean_square.add_(epsilon).rsqrt_()
        inner = (states @ down).float().mul_(factor.unsqueeze(-1)).to(gain.dtype)
        torch.addmm(residual, activation(inner), up, out=updated)
        if router is not None:
            products = score_tokens(wide.unsqueeze(0), router)
            torch.mul(products.squeeze(0), factor, out=scores)


def _is_hooked(module: nn.Module) -> bool:
    """Tell whether someone waits for what a module makes of all tokens."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _computing(norm: nn.Module) -> tuple[nn.Module, type[nn.Module]]:
    """Return the module that answers, of a norm that may have copies, and the class it began as."""
    if isinstance(norm, SwitchableModule):
        name = norm.coda_active
        if name is not None and name in norm.coda_copies:
            norm = norm.coda_copies[name]
    return norm, norm.coda_original_class if isinstance(norm, DynamicSubclass) else type(norm)


def _is_known(norm: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether a norm computes token by token, in a way and a type that the kernel knows."""
    module, kind = _computing(norm)
    if kind is nn.LayerNorm:
        one_axis = len(cast("nn.LayerNorm", module).normalized_shape) == 1
        is_usual = one_axis and module.weight is not None
    else:
        is_usual = (
            kind.__module__.startswith("transformers.") and kind.__name__ in _ROOT_MEAN_SQUARE
        )
    return is_usual and module.weight.dtype == dtype


def _describe(norm: nn.Module) -> "Norm":
    """Return what a known norm computes."""
    from ..kernels import Norm

    module, kind = _computing(norm)
    if kind is nn.LayerNorm:
        layer = cast("nn.LayerNorm", module)
        return Norm("layer", layer.weight, layer.bias, layer.eps)
    weight, epsilon = cast("Tensor", module.weight), cast("float", module.variance_epsilon)
    return Norm("rms", weight, None, epsilon)
