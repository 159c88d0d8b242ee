"""Pretrained adapters that come with the library: sparse models that already work.

They are task-agnostic, made by `coda pretrain` with the command in `adapters/README.md`, and
elastic: one serves every reduction factor that it was trained with. `load_adapter` checks the hash
that each of them carries.
"""

from pathlib import Path

from ...checkpoint.download import find_adapter_folder
from ...errors import ConfigError

_FOLDER = Path(__file__).parent / "adapters"
_PREFIX = "packaged:"


def packaged_adapter_names() -> list[str]:
    """Return the names of the adapters that come with the library."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/adapter_config.json"))


def find_adapter(name: str) -> Path:
    """Return the folder of an adapter, as commands name it.

    Args:
        name: "packaged:" and one of `packaged_adapter_names`, the path of a folder, or a hub id,
            "user/name" or "user/name@revision".

    Returns:
        The folder, for `load_adapter`, `--adapter` and `coda train --init`.

    Raises:
        ConfigError: If no adapter of that name comes with the library.
        CheckpointError: If a hub id cannot be found.
    """
    if not name.startswith(_PREFIX):
        repo_id, separator, revision = name.partition("@")
        if separator and not Path(name).exists():
            return find_adapter_folder(repo_id, revision=revision)
        return find_adapter_folder(name)
    folder = _FOLDER / name.removeprefix(_PREFIX)
    if folder.name not in packaged_adapter_names():
        known = [f"{_PREFIX}{n}" for n in packaged_adapter_names()]
        raise ConfigError(f"{name!r} is no packaged adapter. Known ones: {known}.")
    return folder
