"""The two files of an adapter, in PEFT's layout, without a model.

A directory holds `adapter_config.json` and `adapter_model.safetensors`. Both are written beside the
old ones and renamed. Renaming two files is not one step, so the tensors carry a copy of their
configuration, and the configuration carries the digest of its tensors: if a save is killed in
between, the digest shows that the configuration is the older one and the copy is used. At every
moment the directory holds one complete adapter.
"""

import hashlib
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._atomic import replace_file, replace_text
from .config import ConditionalAdapterConfig, check_reduction_factor
from .errors import CheckpointError, ConfigError

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
PEFT_TYPE = "CODA"
_METADATA_KEY = "adapter_config"
_DIGEST_KEY = "tensors_sha256"


def read_adapter_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what an adapter's directory says about it, without reading the tensors.

    Args:
        directory: What `save_adapter` wrote.

    Returns:
        The fields of the configuration and `base_model_name_or_path`, `model_type` and others.

    Raises:
        CheckpointError: If files are missing or damaged.
    """
    path = Path(directory)
    embedded = _open_tensors(path / TENSORS_FILE, read=False)[0]
    return _current_config(path, embedded)


def set_saved_reduction_factor(
    directory: str | os.PathLike[str], reduction_factor: float
) -> ConditionalAdapterConfig:
    """Let a saved adapter start with another r, without loading a model.

    Nothing else changes, not a bit of the tensors. An elastic adapter keeps its other factors: the
    first is the one it starts with.

    Args:
        directory: What `save_adapter` wrote. Its files are replaced atomically.
        reduction_factor: A number >= 1.

    Returns:
        The configuration as it is saved now.

    Raises:
        CheckpointError: If files are missing or damaged.
        ConfigError: If the factor is out of range.
    """
    path, factor = Path(directory), check_reduction_factor(reduction_factor)
    described, tensors = read_files(path)
    config = interpret(described, path)
    if config.elastic_factors:
        others = tuple(other for other in config.elastic_factors if other != factor)
        config = replace(config, reduction_factor=(factor, *others))
    else:
        config = replace(config, reduction_factor=factor)
    value = config.to_dict()["reduction_factor"]
    write_files(path, tensors, {**described, "reduction_factor": value})
    return config


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
