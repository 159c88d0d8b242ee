"""Pretrained adapters that come with the library: sparse models that already work.

They are task-agnostic, made by `coda pretrain` with the command in `adapters/README.md`, and
elastic: one serves every reduction factor that it was trained with. `load_adapter` checks the hash
that each of them carries.
"""

from pathlib import Path

from ..errors import ConfigError

_FOLDER = Path(__file__).parent / "adapters"
_PREFIX = "packaged:"


def packaged_adapter_names() -> list[str]:
    """Return the names of the adapters that come with the library."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/adapter_config.json"))


def find_adapter(name: str) -> Path:
    """Return the folder of a pretrained adapter.

    Args:
        name: "packaged:" and one of `packaged_adapter_names`, or the path of a folder.

    Returns:
        The folder, for `load_adapter` and `coda train --init`.

    Raises:
        ConfigError: If no adapter of that name comes with the library.
    """
    if not name.startswith(_PREFIX):
        return Path(name)
    folder = _FOLDER / name.removeprefix(_PREFIX)
    if folder.name not in packaged_adapter_names():
        known = [f"{_PREFIX}{n}" for n in packaged_adapter_names()]
        raise ConfigError(f"{name!r} is no packaged adapter. Known ones: {known}.")
    return folder
