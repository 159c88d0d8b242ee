"""The files of an adapter, in PEFT's layout, without a model.

A directory holds `adapter_config.json` and `adapter_model.safetensors`. Both are written beside the
old ones and renamed. Renaming two files is not one step, so the tensors carry a copy of their
configuration, and the configuration carries the digest of its tensors: if a save is killed in
between, the digest shows that the configuration is the older one and the copy is used. At every
moment the directory holds one complete adapter.
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
TASK_FILE = "task.json"  # of adapters that `coda train` wrote
MEASUREMENTS_FILE = "measurements.json"  # of adapters that were evaluated; hub/measurements.py
ADAPTER_FILES = (CONFIG_FILE, TENSORS_FILE, TASK_FILE, MEASUREMENTS_FILE)
PEFT_TYPE = "CODA"
_METADATA_KEY = "adapter_config"
_DIGEST_KEY = "tensors_sha256"


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Return what an adapter's directory says about it, without reading the tensors.

    Args:
        path: The directory.

    Returns:
        The fields of the configuration and `base_model_name_or_path`, `model_type` and others.

    Raises:
        CheckpointError: If files are missing or damaged.
    """
    embedded = _open_tensors(path / TENSORS_FILE, read=False)[0]
    return _current_config(path, embedded)


def write_files(directory: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Replace both files of an adapter, each atomically; see the module's docstring.

    Args:
        directory: It exists.
        tensors: By their names in the file.
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
    """Read an adapter's configuration and tensors.

    Args:
        path: The directory.

    Returns:
        The fields of the configuration file, and the tensors by name.

    Raises:
        CheckpointError: If files are missing or damaged.
    """
    embedded, tensors = _open_tensors(path / TENSORS_FILE, read=True)
    return _current_config(path, embedded), tensors


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's tensors, without reading them.

    Args:
        path: The directory, whose files are there.

    Returns:
        Shapes by the names in the file.
    """
    with safe_open(path / TENSORS_FILE, framework="pt") as file:
        keys = file.keys()  # a file handle, not a mapping
        return {key: tuple(file.get_slice(key).get_shape()) for key in keys}


def _open_tensors(path: Path, *, read: bool) -> tuple[str | None, dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(
            f"no {TENSORS_FILE} in {path.parent}. Give the directory that save_adapter wrote."
        )
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys() if read else []  # a file handle, not a mapping
            tensors = {key: file.get_tensor(key) for key in keys}
            return (file.metadata() or {}).get(_METADATA_KEY), tensors
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). It may be cut off; save or copy "
            "the adapter again."
        ) from error


def _current_config(path: Path, embedded: str | None) -> dict[str, Any]:
    """Return the configuration that belongs to the tensors; see the module's docstring."""
    described = _read_json(path / CONFIG_FILE)
    digest = None if described is None else described.get(_DIGEST_KEY)
    if described is not None and digest in (None, _digest(path / TENSORS_FILE)):
        return described
    if embedded is None:
        problem = f"no readable {CONFIG_FILE}" if described is None else "tensors of another save"
        raise CheckpointError(
            f"{path} holds {problem}. Copy both {CONFIG_FILE} and {TENSORS_FILE} of one adapter."
        )
    warnings.warn(
        f"{path / CONFIG_FILE} is missing or belongs to an earlier save that was replaced; using "
        "the configuration stored with the tensors.",
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
    """Make a configuration of the fields of a configuration file.

    Args:
        described: From `read_files`.
        path: The directory, for messages.

    Returns:
        The checked configuration.

    Raises:
        CheckpointError: If the adapter is of another kind, or a field is wrong.
    """
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
