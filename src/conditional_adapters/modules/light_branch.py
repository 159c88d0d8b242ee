"""Norm, scores and adapter of a layer as one kernel, where that computes the same.

The kernel knows what a norm of torch or transformers does, not how a module came by it: whatever it
does not know (other norms, autocast, wide bottlenecks, gradients) is computed part by part.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..ops import active_kernels
from ._subclass import DynamicSubclass
from .switchable import SwitchableModule

if TYPE_CHECKING:
    from ..kernels import Norm
    from .adapter import ParallelAdapter

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
    adapter: "ParallelAdapter",
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
        The sum and the scores, or None where one kernel cannot do the same as the modules.
    """
    kernels = active_kernels()
    if kernels is None or torch.is_grad_enabled() or states.dtype not in _DTYPES:
        return None
    norm = None if isinstance(norm, nn.Identity) else norm
    known = norm and _describe(norm)
    is_known = norm is None or (known is not None and known.weight.dtype == states.dtype)
    fits = adapter.activation in kernels.ACTIVATIONS and (
        adapter.down.shape[0] <= kernels.MAX_ADAPTER_DIM
    )
    is_plain = residual.dtype == states.dtype and not torch.is_autocast_enabled(states.device.type)
    if not (is_known and fits and is_plain):
        return None
    updated, scores = kernels.light_branch(
        states,
        residual,
        adapter.down,
        adapter.up,
        activation=adapter.activation,
        norm=known,
        router_weight=router_weight,
    )
    return updated, scores


def _describe(module: nn.Module) -> "Norm | None":
    """Return what a norm computes; None if it is not known."""
    from ..kernels import Norm

    if isinstance(module, SwitchableModule):
        name = module.coda_active
        if name is not None and name in module.coda_copies:
            module = module.coda_copies[name]
    kind = module.coda_original_class if isinstance(module, DynamicSubclass) else type(module)
    if kind is nn.LayerNorm:
        norm = cast("nn.LayerNorm", module)
        is_usual = len(norm.normalized_shape) == 1 and norm.elementwise_affine
        return Norm("layer", norm.weight, norm.bias, norm.eps) if is_usual else None
    if kind.__module__.startswith("transformers.") and kind.__name__ in _ROOT_MEAN_SQUARE:
        weight, epsilon = cast("Tensor", module.weight), cast("float", module.variance_epsilon)
        return Norm("rms", weight, None, epsilon)
    return None
