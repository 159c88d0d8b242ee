"""Libraries that only some tasks need, imported when they are."""

import importlib
from types import ModuleType

from ...errors import ConfigError


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a library of an extra.

    Args:
        module: The import name.
        extra: The extra of this package that installs it.
        purpose: What it is needed for, the beginning of a sentence.

    Returns:
        The module.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}). "
            f'Install it with `pip install "conditional-adapters[{extra}]"`.'
        ) from error
