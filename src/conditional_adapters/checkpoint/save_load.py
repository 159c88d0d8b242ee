"""Save and load adapters in PEFT's file format."""

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

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
from ..model.attachment import get_attachment, is_attached
from ..model.structure import transformers_model
from .download import find_adapter_folder
from .files import PEFT_TYPE, interpret, read_files, write_files
from .files import read_adapter_config as _read_adapter_config
from .model_kind import check_model_kind, model_kind
from .tensors import adapter_tensors, copy_tensors, without_heads

ModelT = TypeVar("ModelT", bound=nn.Module)


def save_adapter(
    model: nn.Module, directory: str | os.PathLike[str], *, adapter_name: str | None = None
) -> Path:
    """Write one adapter: routers, adapters, trained norms and task head.

    Args:
        model: A conditional model.
        directory: Created if needed. An adapter in it is replaced atomically; other files stay as
            they are. `push_to_hub` writes a model card, and so does the `coda` command.
        adapter_name: The adapter; None means the active one.

    Returns:
        The directory.

    Raises:
        AttachmentError: If there is no such adapter.
    """
    attachment, outer = get_attachment(model), transformers_model(model)
    name = attachment.active if adapter_name is None else adapter_name
    if name is None or name not in attachment.configs:
        raise AttachmentError(
            f"the model has no adapter {name!r} to save. It has {list(attachment.configs)}."
        )
    config = {
        "peft_type": PEFT_TYPE,
        "base_model_name_or_path": outer.config.name_or_path or None,
        **model_kind(model),
        "auto_mapping": {  # AutoPeftModel finds the class by it
            "base_model_class": type(outer).__name__,
            "parent_library": type(outer).__module__,
        },
        "library_version": __version__,
        **attachment.configs[name].to_dict(),
        "modules_to_save": list(attachment.heads[name]),
    }
    tensors = {
        key: parameter.detach().to("cpu").contiguous()
        for key, parameter in adapter_tensors(model, name).items()
    }
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    write_files(target, tensors, config)
    return target


def load_adapter(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    adapter_name: str = "default",
    revision: str | None = None,
) -> None:
    """Load an adapter into a model and activate it; attaches first if needed.

    Args:
        model: The dense model that the adapter was trained for, or one with other adapters.
        directory: A directory of `save_adapter`, or a hub id: "user/name". An existing directory of
            that name is used first; otherwise huggingface_hub downloads the files to its cache.
        adapter_name: The adapter's name in the model. If the model has an adapter with this name
            and the same configuration, its tensors are replaced.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Raises:
        CheckpointError: If files are missing or damaged, belong to another kind of model, or a
            tensor is missing, unexpected or of another shape. The model is then unchanged.
    """
    path = find_adapter_folder(directory, revision=revision)
    described, tensors = read_files(path)
    config = interpret(described, path)
    check_model_kind(model, described, f"{path} holds")
    with ExitStack() as undo:
        _require_adapter(model, config, adapter_name, path, undo)
        copy_tensors(
            adapter_tensors(model, adapter_name),
            tensors,
            path,
            remedy="Load the base model, with the number of labels, that the adapter was trained "
            "with.",
        )
        undo.pop_all()
    get_attachment(model).configs[adapter_name] = config
    set_adapter(model, adapter_name)
    set_reduction_factor(model, config.default_reduction_factor)


def _require_adapter(
    model: nn.Module,
    config: ConditionalAdapterConfig,
    adapter_name: str,
    path: Path,
    undo: ExitStack,
) -> None:
    """Add an adapter if the model has none with this name, or check that its shapes are equal."""
    attachment = get_attachment(model) if is_attached(model) else None
    try:
        if attachment is None:
            attach(model, config, adapter_name=adapter_name)
            undo.callback(detach, model)
        elif adapter_name not in attachment.configs:
            previous = attachment.active
            add_adapter(model, config, adapter_name=adapter_name)
            undo.callback(remove_adapter, model, adapter_name)
            undo.callback(set_adapter, model, previous)
    except ConfigError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    # These two may change at run time or were set by `attach`.
    existing, loaded = (
        replace(c, reduction_factor=1, modules_to_save=None)
        for c in (get_attachment(model).configs[adapter_name], config)
    )
    if existing != loaded:
        raise CheckpointError(
            f"the model has an adapter {adapter_name!r} with another configuration than the one in "
            f"{path}. Choose another adapter_name, or remove_adapter(model, {adapter_name!r})."
        )


def read_adapter_config(
    directory: str | os.PathLike[str], *, revision: str | None = None
) -> dict[str, Any]:
    """Read the configuration of a saved adapter, without its tensors.

    Args:
        directory: A directory of `save_adapter`, or a hub id.
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
    """Change the reduction factor of a saved adapter, without loading a model.

    Nothing else changes. An elastic adapter keeps its other factors; the first one is the default.

    Args:
        directory: A directory of `save_adapter`. Its files are replaced atomically.
        reduction_factor: A number >= 1.

    Returns:
        The new configuration.

    Raises:
        CheckpointError: If files are missing or damaged.
        ConfigError: If the factor is out of range.
    """
    path, factor = Path(directory), check_reduction_factor(reduction_factor)
    described, tensors = read_files(path)
    config = interpret(described, path)
    others = tuple(other for other in config.elastic_factors if other != factor)
    config = replace(
        config, reduction_factor=(factor, *others) if config.elastic_factors else factor
    )
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
    """Make a model conditional, initialised from a pretrained adapter.

    Unlike in `load_adapter`, the model may have another task head than the pretrained one, or none:
    routers, adapters and norms are loaded, a head stays new and is trained.

    Args:
        model: A dense model of the type that the adapter was pretrained with.
        directory: A directory of `save_adapter`, or a hub id.
        config: The configuration to attach; None means the pretrained one, with the default of
            `modules_to_save`. Fields that do not change the tensors, such as `reduction_factor`,
            may differ.
        adapter_name: The adapter's name in the model.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Returns:
        The same object.

    Raises:
        CheckpointError: If files are missing or damaged, or the adapter does not fit the model or
            the configuration. The model is then unchanged.
        AttachmentError: If the model already has conditional adapters.
    """
    path = find_adapter_folder(directory, revision=revision)
    described, tensors = read_files(path)
    check_model_kind(model, described, f"{path} holds", names=("model_type",))
    stored = replace(interpret(described, path), modules_to_save=None)
    try:
        attach(model, config or stored, adapter_name=adapter_name)
    except ConfigError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    prefix = transformers_model(model).base_model_prefix
    heads = get_attachment(model).heads[adapter_name]
    with ExitStack() as undo:
        undo.callback(detach, model)
        copy_tensors(
            without_heads(adapter_tensors(model, adapter_name), heads, prefix),
            without_heads(tensors, described.get("modules_to_save") or (), prefix),
            path,
            remedy="Use the base model and the adapter configuration of the pretraining.",
        )
        undo.pop_all()
    return model
