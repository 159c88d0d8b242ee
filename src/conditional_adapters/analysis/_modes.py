"""Run a model in evaluation mode, or at another reduction factor, for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..model.attach import set_reduction_factor
from ..model.attachment import active_adapter, conditional_layers


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all in it into evaluation mode while the context is open.

    No dropout is drawn then, and no reduction factor. Afterwards each is back in the mode it had,
    which need not be that of the module around it.

    Args:
        module: Any module.

    Yields:
        Nothing; call the module as usual.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, is_training in modes:
            part.training = is_training


@contextmanager
def keeping_reduction_factor(model: nn.Module) -> Iterator[None]:
    """Set the reduction factor of the active adapter back when the context is left.

    Args:
        model: A conditional model with an active adapter.

    Yields:
        Nothing; call `set_reduction_factor` as you like.
    """
    before = conditional_layers(model)[0].coda_part(active_adapter(model)).reduction_factor
    try:
        yield
    finally:
        set_reduction_factor(model, before)
