"""Tensors of an adapter and their names in its file.

Names are PEFT's: the path in the transformers model after `base_model.model.`, without the name of
the adapter. Trained norms and heads have the names of the modules that they replace.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.attachment import adapter_parameters

_PREFIX = "base_model.model."
TensorT = TypeVar("TensorT", bound=Tensor)


def adapter_tensors(model: nn.Module, adapter_name: str) -> dict[str, nn.Parameter]:
    """Return an adapter's parameters by their names in the file."""
    return {file_key(path, adapter_name): p for path, p in adapter_parameters(model, adapter_name)}


def file_key(path: str, adapter_name: str) -> str:
    """Return the name in the file of an adapter's parameter."""
    path = path.replace(f".coda_adapters.{adapter_name}.", ".coda_adapters.")
    return _PREFIX + path.replace(f".coda_copies.{adapter_name}.", ".")


def without_heads(
    tensors: Mapping[str, TensorT], heads: Iterable[str], base_model_prefix: str
) -> dict[str, TensorT]:
    """Drop the tensors of task heads, and rename the others as in the base model."""
    prefixes = tuple(f"{_PREFIX}{head}." for head in heads)
    return {
        key.replace(f"{_PREFIX}{base_model_prefix}.", _PREFIX, 1): value
        for key, value in tensors.items()
        if not key.startswith(prefixes)
    }


def copy_tensors(
    targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, *, remedy: str
) -> None:
    """Copy tensors into the targets of the same names, all or none."""
    problems = [f"missing: {key}" for key in targets if key not in tensors]
    problems += [f"unexpected: {key}" for key in tensors if key not in targets]
    problems += [
        f"wrong shape: {key} is {list(tensors[key].shape)}, the model needs {list(p.shape)}"
        for key, p in targets.items()
        if key in tensors and tensors[key].shape != p.shape
    ]
    if problems:
        shown = "".join(f"\n  {line}" for line in problems[:20])
        rest = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"{path} does not fit this model; nothing was loaded.{shown}{rest}\n{remedy}"
        )
    with torch.no_grad():
        for key, parameter in targets.items():
            parameter.copy_(tensors[key])
