"""Temporary settings of a model: evaluation mode, another reduction factor."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..errors import ConfigError
from ..model.attach import set_reduction_factor
from ..model.attachment import active_adapter, conditional_layers


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a module in evaluation mode, then restore the mode of each of its submodules."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, is_training in modes:
            submodule.training = is_training


@contextmanager
def keeping_reduction_factor(model: nn.Module) -> Iterator[None]:
    """Restore the reduction factor of the active adapter on exit."""
    before = conditional_layers(model)[0].coda_part(active_adapter(model)).reduction_factor
    try:
        yield
    finally:
        set_reduction_factor(model, before)


def refuse_dense_below(model: nn.Module, reason: str) -> None:
    """Raise a ConfigError with a reason if `set_dense_below` is in effect."""
    limits = {getattr(module, "coda_dense_below", None) for module in model.modules()} - {None}
    if limits:
        raise ConfigError(
            f"batches of fewer than {limits.pop()} tokens run dense, {reason}. Call "
            "set_dense_below(model, None) first."
        )
