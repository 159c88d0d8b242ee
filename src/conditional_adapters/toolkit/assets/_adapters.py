"""Pretrained adapters that come with the library.

They are task-agnostic, elastic, and made by `coda pretrain` with the commands in
`adapters/README.md`. `load_adapter` verifies the hash in their files.
"""

from pathlib import Path

from ...checkpoint.download import find_adapter_folder
from ...errors import ConfigError

_FOLDER = Path(__file__).parent / "adapters"
_PREFIX = "packaged:"


def packaged_adapter_names() -> list[str]:
    """Names of the packaged adapters."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/adapter_config.json"))


def find_adapter(name: str) -> Path:
    """Find the folder of an adapter."""
    if not name.startswith(_PREFIX):
        repo_id, separator, revision = name.partition("@")
        if separator and not Path(name).exists():
            return find_adapter_folder(repo_id, revision=revision)
        return find_adapter_folder(name)
    folder = _FOLDER / name.removeprefix(_PREFIX)
    if folder.name not in packaged_adapter_names():
        known = [f"{_PREFIX}{n}" for n in packaged_adapter_names()]
        raise ConfigError(
            f"{name!r} is not a packaged adapter. Known ones: {known}. Use one of them."
        )
    return folder
