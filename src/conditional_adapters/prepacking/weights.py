"""Prepack the weights of a model for inference on CPUs."""

import warnings
from typing import TypeVar

from torch import nn

from ..errors import AttachmentError
from ..modules._subclass import add_mixin, remove_mixin
from ..modules.adapter import ParallelAdapter
from .modules import PrepackedAdapter, PrepackedLinear, PrepackedModule

ModelT = TypeVar("ModelT", bound=nn.Module)

_MIXINS: dict[type[nn.Module], type[PrepackedModule]] = {
    nn.Linear: PrepackedLinear,
    ParallelAdapter: PrepackedAdapter,
}


def prepack_weights(model: ModelT) -> ModelT:
    """Keep prepacked copies of the linear weights for inference on CPUs.

    Matrix products of few tokens gain most: the k chosen tokens of a conditional layer, a single
    text, short texts. Dense models gain as well, so compare with a prepacked one. Graphs of
    `torch.compile` use the copies too. Training, autocast, GPUs and exported graphs are not
    affected. Outputs change by rounding.

    A weight that changes, by an optimiser, by `load_state_dict` or by merging an adapter into it,
    is prepacked again at its next use. A change of a few elements through `weight.data` may be
    missed: call this function again after it. The copies take as much memory as the weights and are
    not saved. `remove_prepacked_weights` and `detach` remove them.

    Args:
        model: Any model with `torch.nn.Linear` modules or adapters on a CPU, in float32, or in
            bfloat16 on a processor with bfloat16 instructions. Other modules stay as they are.

    Returns:
        The same object.

    Raises:
        AttachmentError: If no weight can be prepacked.

    Source:
        Our choice. The layout is that of oneDNN, which PyTorch's CPU build contains.

    Example:
        >>> ca.prepack_weights(model.eval())
    """
    found = 0
    for module in list(model.modules()):
        mixin = _MIXINS.get(type(module))
        if mixin is not None and mixin.coda_can_prepack(module):
            module = add_mixin(module, mixin)
        if isinstance(module, PrepackedModule) and module.coda_can_prepack(module):
            module.coda_prepack()
            found += 1
    if not found:
        raise AttachmentError(
            "no weight can be prepacked: the model has no torch.nn.Linear on a CPU in float32, or "
            "in bfloat16 on a processor with bfloat16 instructions, that was created outside "
            "torch.inference_mode(). Call model.to('cpu', torch.float32) first, or do not prepack."
        )
    return model


def remove_prepacked_weights(model: ModelT) -> ModelT:
    """Remove the copies that `prepack_weights` made, if any.

    Args:
        model: Any model.

    Returns:
        The same object. Its outputs are bit for bit those from before `prepack_weights`.
    """
    for module in model.modules():
        if isinstance(module, PrepackedModule):
            remove_mixin(module, PrepackedModule)
            del module.coda_prepacked
    return model


def pack_weights(model: ModelT) -> ModelT:
    """Deprecated name of `prepack_weights`."""
    _warn_about("pack_weights", prepack_weights.__name__)
    return prepack_weights(model)


def unpack_weights(model: ModelT) -> ModelT:
    """Deprecated name of `remove_prepacked_weights`."""
    _warn_about("unpack_weights", remove_prepacked_weights.__name__)
    return remove_prepacked_weights(model)


def _warn_about(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is deprecated. Call {new} instead.", category=DeprecationWarning, stacklevel=3
    )
