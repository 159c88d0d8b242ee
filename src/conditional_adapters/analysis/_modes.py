"""Run a model in evaluation mode for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
