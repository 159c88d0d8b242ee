"""Import of optional libraries on first use."""

import importlib
from types import ModuleType

from ...errors import ConfigError


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an extra; `purpose` begins the error message if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}). "
            f'Install it with `pip install "conditional-adapters[{extra}]"`.'
        ) from error
