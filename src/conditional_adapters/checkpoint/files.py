"""The files of an adapter, in PEFT's format, without a model.

A directory has `adapter_config.json` and `adapter_model.safetensors`. Each is replaced atomically,
but not both at once. The tensors therefore contain a copy of their configuration, and the
configuration contains the digest of its tensors. If a save is killed between the two, the digest
shows that the configuration is outdated, and the copy is used. So the directory holds one complete
adapter at any time.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import ConditionalAdapterConfig
from ..errors import CheckpointError, ConfigError
from .atomic import replace_file, replace_text

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
TASK_FILE = "task.json"  # written by `coda train`
MEASUREMENTS_FILE = "measurements.json"  # written by hub/measurements.py
ADAPTER_FILES = (CONFIG_FILE, TENSORS_FILE, TASK_FILE, MEASUREMENTS_FILE)
PEFT_TYPE = "CODA"
_METADATA_KEY = "adapter_config"
_DIGEST_KEY = "tensors_sha256"


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Read the configuration of an adapter in a local directory, without its tensors."""
    embedded, _ = _open_tensors(path / TENSORS_FILE, read=False)
    return _current_config(path, embedded)


def write_files(directory: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Replace both files of an adapter, each atomically; see the module's docstring.

    Args:
        directory: An existing directory.
        tensors: Tensors by their names in the file.
        config: The fields of the configuration file.
    """
    config = {key: value for key, value in config.items() if key != _DIGEST_KEY}

    def write_tensors(path: Path) -> None:
        save_file(tensors, path, metadata={"format": "pt", _METADATA_KEY: json.dumps(config)})

    replace_file(directory / TENSORS_FILE, write_tensors)
    digest = _digest(directory / TENSORS_FILE)
    text = json.dumps({**config, _DIGEST_KEY: digest}, indent=2) + "\n"
    replace_text(directory / CONFIG_FILE, text)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_files(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the fields of an adapter's configuration, and its tensors by their names in the file."""
    embedded, tensors = _open_tensors(path / TENSORS_FILE, read=True)
    return _current_config(path, embedded), tensors


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of an adapter's tensors by their names in the file."""
    with safe_open(path / TENSORS_FILE, framework="pt") as file:
        keys = file.keys()  # a file handle, not a mapping
        return {key: tuple(file.get_slice(key).get_shape()) for key in keys}


def _open_tensors(path: Path, *, read: bool) -> tuple[str | None, dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(
            f"no {TENSORS_FILE} in {path.parent}. Pass a directory that save_adapter wrote."
        )
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys() if read else []  # a file handle, not a mapping
            tensors = {key: file.get_tensor(key) for key in keys}
            return (file.metadata() or {}).get(_METADATA_KEY), tensors
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). It may be truncated. Save or "
            "copy the adapter again."
        ) from error


def _current_config(path: Path, embedded: str | None) -> dict[str, Any]:
    """Return the configuration that belongs to the tensors; see the module's docstring."""
    described = _read_json(path / CONFIG_FILE)
    digest = None if described is None else described.get(_DIGEST_KEY)
    if described is not None and digest in (None, _digest(path / TENSORS_FILE)):
        return described
    if embedded is None:
        problem = f"no {CONFIG_FILE}" if described is None else "tensors of another save"
        raise CheckpointError(
            f"{path} has {problem}. Copy both {CONFIG_FILE} and {TENSORS_FILE} of one adapter."
        )
    warnings.warn(
        f"{path / CONFIG_FILE} is missing or belongs to an earlier save. Using the configuration "
        "stored with the tensors.",
        stacklevel=4,
    )
    stored: dict[str, Any] = json.loads(embedded)
    return stored


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}). Correct it, or delete it to use the "
            "configuration stored with the tensors."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    return values


def interpret(described: dict[str, Any], path: Path) -> ConditionalAdapterConfig:
    """Create a configuration from the fields of a configuration file."""
    if described.get("peft_type") != PEFT_TYPE:
        raise CheckpointError(
            f"{path} holds an adapter of type {described.get('peft_type')!r}, not {PEFT_TYPE!r}. "
            "Load it with PEFT."
        )
    fields = ConditionalAdapterConfig.__dataclass_fields__
    try:
        return ConditionalAdapterConfig.from_dict(
            {key: value for key, value in described.items() if key in fields}
        )
    except ConfigError as error:
        raise CheckpointError(f"{path / CONFIG_FILE}: {error}") from error
