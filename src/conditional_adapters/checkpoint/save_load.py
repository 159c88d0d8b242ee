"""Save and load adapters, in PEFT's file layout.

Tensors are named as PEFT names them: the path in the transformers model behind
`base_model.model.`, without the adapter's name; trained norms and heads under the names of the
modules they replace. `files` reads and writes them.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._version import __version__
from ..config import ConditionalAdapterConfig, check_reduction_factor
from ..errors import AttachmentError, CheckpointError, ConfigError
from ..model.attach import (
    add_adapter,
    attach,
    detach,
    remove_adapter,
    set_adapter,
    set_reduction_factor,
)
from ..model.attachment import adapter_parameters, get_attachment, is_attached
from ..model.structure import transformers_model
from .download import find_adapter_folder
from .files import PEFT_TYPE, interpret, read_files, write_files
from .files import read_adapter_config as _read_adapter_config
from .model_kind import check_model_kind, model_kind

_PREFIX = "base_model.model."
ModelT = TypeVar("ModelT", bound=nn.Module)
TensorT = TypeVar("TensorT", bound=Tensor)


def save_adapter(
    model: nn.Module, directory: str | os.PathLike[str], *, adapter_name: str | None = None
) -> Path:
    """Write one adapter: router, adapter, trained norms and task head.

    Args:
        model: A conditional model.
        directory: Made if needed. An adapter in it is replaced atomically; other files stay as
            they are. `push_to_hub` writes a model card, and so do the commands.
        adapter_name: Which adapter; None means the active one.

    Returns:
        The directory.

    Raises:
        AttachmentError: If there is no such adapter.
    """
    name = _existing(model, adapter_name)
    tensors = {
        key: parameter.detach().to("cpu").contiguous()
        for key, parameter in _by_file_key(model, name).items()
    }
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    write_files(target, tensors, _describe(model, name))
    return target


def load_adapter(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    adapter_name: str = "default",
    revision: str | None = None,
) -> None:
    """Read an adapter into a model and activate it; attaches first if needed.

    Args:
        model: The dense model that the adapter was trained for, or one with other adapters.
        directory: What `save_adapter` wrote, or a hub id: "user/name". A directory of that name
            wins; otherwise the files come through the cache of huggingface_hub.
        adapter_name: The name it gets. If the model has an adapter of that name and the same
            shape, its values are replaced.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Raises:
        CheckpointError: If files are missing or damaged, belong to another kind of model, or any
            tensor is missing, unexpected or of another shape. The model is left as it was.
    """
    path = find_adapter_folder(directory, revision=revision)
    described, tensors = read_files(path)
    config = interpret(described, path)
    check_model_kind(model, described, f"{path} holds")
    undo = _prepare(model, config, adapter_name, path)
    try:
        _copy_into(model, adapter_name, tensors, path)
    except CheckpointError:
        undo()
        raise
    get_attachment(model).configs[adapter_name] = config
    set_adapter(model, adapter_name)
    set_reduction_factor(model, config.default_reduction_factor)


def read_adapter_config(
    directory: str | os.PathLike[str], *, revision: str | None = None
) -> dict[str, Any]:
    """Return what an adapter's directory says about it, without reading the tensors.

    Args:
        directory: What `save_adapter` wrote, or a hub id.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Returns:
        The fields of the configuration and `base_model_name_or_path`, `model_type` and others.

    Raises:
        CheckpointError: If files are missing or damaged.
    """
    return _read_adapter_config(find_adapter_folder(directory, revision=revision))


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


def attach_pretrained(
    model: ModelT,
    directory: str | os.PathLike[str],
    config: ConditionalAdapterConfig | None = None,
    *,
    adapter_name: str = "default",
    revision: str | None = None,
) -> ModelT:
    """Make a model conditional, starting from a pretrained adapter.

    Unlike in `load_adapter`, the model may have another task head than the one of the pretraining,
    or none: router, adapter and norms are read, a head is new and trains.

    Args:
        model: A dense model of the type that the adapter was pretrained with.
        directory: What `save_adapter` wrote, or a hub id.
        config: What to attach; None means as pretrained, with the default for `modules_to_save`.
            What does not change the tensors, such as `reduction_factor`, may differ.
        adapter_name: The name it gets.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Returns:
        The same object.

    Raises:
        CheckpointError: If files are missing or damaged, or the adapter does not fit the model or
            the configuration. The model is left as it was.
        AttachmentError: If the model has conditional adapters already.
    """
    path = find_adapter_folder(directory, revision=revision)
    described, tensors = read_files(path)
    check_model_kind(model, described, f"{path} holds", names=("model_type",))
    stored = replace(interpret(described, path), modules_to_save=None)
    try:
        attach(model, config or stored, adapter_name=adapter_name)
    except ConfigError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    heads = get_attachment(model).heads[adapter_name]
    wanted = _by_file_key(model, adapter_name)
    base = f"{_PREFIX}{transformers_model(model).base_model_prefix}."
    try:
        _copy(
            _of_encoder(wanted, heads, base),
            _of_encoder(tensors, described.get("modules_to_save") or (), base),
            path,
            remedy="Use the base model, and the shape of adapter, that it was pretrained with.",
        )
    except CheckpointError:
        detach(model)
        raise
    return model


def file_key(path: str, adapter_name: str) -> str:
    """Return the name in the file of a parameter of an adapter."""
    path = path.replace(f".coda_adapters.{adapter_name}.", ".coda_adapters.")
    return _PREFIX + path.replace(f".coda_copies.{adapter_name}.", ".")


def _existing(model: nn.Module, adapter_name: str | None) -> str:
    attachment = get_attachment(model)
    name = attachment.active if adapter_name is None else adapter_name
    if name is None or name not in attachment.configs:
        raise AttachmentError(
            f"the model has no adapter {name!r} to save. It has {list(attachment.configs)}."
        )
    return name


def _describe(model: nn.Module, adapter_name: str) -> dict[str, Any]:
    attachment, outer = get_attachment(model), transformers_model(model)
    return {
        "peft_type": PEFT_TYPE,
        "base_model_name_or_path": outer.config.name_or_path or None,
        **model_kind(model),
        "auto_mapping": {  # AutoPeftModel finds the class by it
            "base_model_class": type(outer).__name__,
            "parent_library": type(outer).__module__,
        },
        "library_version": __version__,
        **attachment.configs[adapter_name].to_dict(),
        "modules_to_save": list(attachment.heads[adapter_name]),
    }


def _prepare(
    model: nn.Module, config: ConditionalAdapterConfig, adapter_name: str, path: Path
) -> Callable[[], object]:
    """Give the model an adapter of this shape, and return what takes it away again."""
    attachment = get_attachment(model) if is_attached(model) else None
    try:
        if attachment is None:
            attach(model, config, adapter_name=adapter_name)
            return lambda: detach(model)
        existing = attachment.configs.get(adapter_name)
        if existing is None:
            previous = attachment.active
            add_adapter(model, config, adapter_name=adapter_name)

            def undo() -> None:
                set_adapter(model, previous)
                remove_adapter(model, adapter_name)

            return undo
    except ConfigError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    if _shape(existing) != _shape(config):
        raise CheckpointError(
            f"the model has an adapter {adapter_name!r} with another configuration than the one in "
            f"{path}. Choose another adapter_name, or remove_adapter(model, {adapter_name!r})."
        )
    return lambda: None


def _shape(config: ConditionalAdapterConfig) -> ConditionalAdapterConfig:
    """Return the configuration without what may change at run time or was resolved by attach."""
    return replace(config, reduction_factor=1, modules_to_save=None)


def _copy_into(model: nn.Module, adapter_name: str, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into an adapter, all or none."""
    remedy = "Load the base model, with the number of labels, that the adapter was trained with."
    _copy(_by_file_key(model, adapter_name), tensors, path, remedy=remedy)


def _by_file_key(model: nn.Module, adapter_name: str) -> dict[str, nn.Parameter]:
    """Return an adapter's parameters by their names in the file."""
    return {file_key(path, adapter_name): p for path, p in adapter_parameters(model, adapter_name)}


def _of_encoder(
    named: Mapping[str, TensorT], heads: Iterable[str], base: str
) -> dict[str, TensorT]:
    """Drop what belongs to task heads; name the rest as in the base model."""
    prefixes = tuple(f"{_PREFIX}{head}." for head in heads)
    return {
        key.replace(base, _PREFIX, 1): value
        for key, value in named.items()
        if not key.startswith(prefixes)
    }


def _copy(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, *, remedy: str
) -> None:
    """Copy tensors into those of the same names, all or none."""
    problems = [f"missing: {key}" for key in wanted if key not in tensors]
    problems += [f"unexpected: {key}" for key in tensors if key not in wanted]
    problems += [
        f"wrong shape: {key} is {list(tensors[key].shape)}, the model needs {list(p.shape)}"
        for key, p in wanted.items()
        if key in tensors and tensors[key].shape != p.shape
    ]
    if problems:
        shown = "".join(f"\n  {line}" for line in problems[:20])
        rest = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"{path} does not fit this model; nothing was loaded.{shown}{rest}\n{remedy}"
        )
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])
