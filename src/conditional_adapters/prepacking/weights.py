"""Lay the weights of a model out for inference on CPUs."""

from typing import TypeVar

from torch import nn

from ..errors import AttachmentError
from ..modules._subclass import add_mixin, remove_mixin
from ..modules.adapter import ParallelAdapter
from .modules import PackedAdapter, PackedLinear, PackedModule

ModelT = TypeVar("ModelT", bound=nn.Module)

_MIXINS: dict[type[nn.Module], type[PackedModule]] = {
    nn.Linear: PackedLinear,
    ParallelAdapter: PackedAdapter,
}


def pack_weights(model: ModelT) -> ModelT:
    """Keep a copy of each linear weight in the layout of the CPU's matrix product, for inference.

    Products of few rows gain most: the k of n tokens of a conditional layer, single texts, short
    ones. Dense models gain, too, so compare with a packed one. Graphs that `torch.compile` makes
    use the copies as well. Where gradients are needed, under autocast, on a GPU and in exported
    graphs the model computes as before. Outputs change by rounding.

    A weight that has changed, by an optimiser, by `load_state_dict` or by merging another adapter
    into it, is packed again at its next use. A change of a few elements through `weight.data` may
    be missed: call this function again after it. The copies take as much memory as the weights and
    are not saved; `unpack_weights` and `detach` drop them.

    Args:
        model: Any model whose linear maps are `torch.nn.Linear` on a CPU, in float32, or in
            bfloat16 where the processor has instructions for it. Adapters are packed as well;
            other modules stay as they are.

    Returns:
        The same object.

    Raises:
        AttachmentError: If nothing in the model can be packed.

    Source:
        Our choice. The layout is that of oneDNN, which PyTorch's CPU build contains.

    Example:
        >>> ca.pack_weights(model.eval())
    """
    found = 0
    for module in list(model.modules()):
        mixin = _MIXINS.get(type(module))
        if mixin is not None and mixin.coda_can_pack(module):
            module = add_mixin(module, mixin)
        if isinstance(module, PackedModule) and module.coda_can_pack(module):
            module.coda_pack()
            found += 1
    if not found:
        raise AttachmentError(
            "no weight can be packed: the model has no torch.nn.Linear on a CPU in float32, or in "
            "bfloat16 on a processor that computes in it, made outside torch.inference_mode(). "
            "Move it with model.to('cpu', torch.float32) first, or leave the call out."
        )
    return model


def unpack_weights(model: ModelT) -> ModelT:
    """Drop what `pack_weights` made; without it, nothing happens.

    Args:
        model: A model.

    Returns:
        The same object, which computes bit for bit as it did before.
    """
    for module in model.modules():
        if isinstance(module, PackedModule):
            remove_mixin(module, PackedModule)
            del module.coda_packed
    return model
