"""Freeze the running statistics of normalisation layers, which are buffers, not parameters."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ._subclass import DynamicSubclass, add_mixin


class FrozenStatistics(DynamicSubclass):
    """Mixin that keeps a normalisation layer in evaluation mode."""

    def train(self, mode: bool = True) -> Any:  # noqa: ANN401
        """Ignore the mode."""
        return super().train(False)

    def coda_restore(self, training: bool) -> None:
        """Set the mode of the model."""
        super().train(training)


def freeze_statistics(model: nn.Module) -> None:
    """Freeze the statistics of every normalisation layer whose parameters are frozen."""
    for module in list(model.modules()):
        is_frozen = not any(p.requires_grad for p in module.parameters())
        if isinstance(module, _NormBase) and is_frozen:
            add_mixin(module, FrozenStatistics).eval()
