"""Read a conditional model: which adapters it has, where their parts are, which of them answers.

What is not in the model's layers is in one `Attachment` on the model, which `attach` puts there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from ..config import ConditionalAdapterConfig
from ..errors import AttachmentError
from ..modules import ConditionalLayer, ContextHook, ForwardScope, SwitchableModule
from .structure import find_sites, transformers_model

ATTRIBUTE = "coda_attachment"  # where a transformers model has its attachment


class Removable(Protocol):
    """What `detach` takes away: the handle of a hook, or what an integration has added."""

    def remove(self) -> None:
        """Undo the addition."""


@dataclass
class Attachment:
    """The state of a conditional model that is not in its layers."""

    hooks: tuple[ContextHook, ...]
    handles: tuple[Removable, ...] = ()
    configs: dict[str, ConditionalAdapterConfig] = field(default_factory=dict)
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)  # paths of copied task heads
    trainable: tuple[str, ...] = ()  # parameters that were trainable before
    active: str | None = None
    scope: ForwardScope = field(default_factory=ForwardScope)


def is_attached(model: nn.Module) -> bool:
    """Tell whether a model has conditional adapters."""
    return any(hasattr(module, ATTRIBUTE) for module in model.modules())


def get_attachment(model: nn.Module) -> Attachment:
    """Return the attachment of a conditional model.

    Args:
        model: A model that `attach` was called on.

    Returns:
        Its record.

    Raises:
        AttachmentError: If the model has no conditional adapters.
    """
    for module in model.modules():
        if hasattr(module, ATTRIBUTE):
            attachment: Attachment = getattr(module, ATTRIBUTE)
            return attachment
    raise AttachmentError(
        f"this {type(model).__name__} has no conditional adapters. Call attach(model, config) or "
        "load_adapter(model, directory) first."
    )


def active_adapter(model: nn.Module) -> str:
    """Return the name of the active adapter.

    Args:
        model: A model that `attach` was called on.

    Returns:
        The name.

    Raises:
        AttachmentError: If none is active.
    """
    attachment = get_attachment(model)
    if attachment.active is None:
        raise AttachmentError(
            f"no adapter is active. Call set_adapter(model, name) with one of "
            f"{list(attachment.configs)}."
        )
    return attachment.active


def conditional_layers(model: nn.Module) -> list[ConditionalLayer]:
    """Return the encoder layers of a conditional model, in order."""
    get_attachment(model)
    layers = find_sites(model).encoder_layers
    return [layer for layer in layers if isinstance(layer, ConditionalLayer)]


def adapter_parts(
    model: nn.Module,
) -> Iterator[tuple[str, ConditionalLayer | SwitchableModule, nn.ModuleDict]]:
    """Yield all dictionaries of adapters' parts: path in the transformers model, owner, itself."""
    for path, module in transformers_model(model).named_modules():
        if isinstance(module, ConditionalLayer):
            yield f"{path}.coda_adapters", module, module.coda_adapters
        elif isinstance(module, SwitchableModule):
            yield f"{path}.coda_copies", module, module.coda_copies


def adapter_parameters(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that belong to an adapter, by their paths in the transformers model."""
    for path, _, parts in adapter_parts(model):
        if adapter_name in parts:
            yield from parts[adapter_name].named_parameters(prefix=f"{path}.{adapter_name}")


def switch(model: nn.Module, adapter_name: str | None) -> None:
    """Let another adapter answer, or none; what is trainable stays so.

    Args:
        model: A model that `attach` was called on.
        adapter_name: One of its adapters, or None.

    Raises:
        AttachmentError: If there is no such adapter.
    """
    attachment = get_attachment(model)
    if adapter_name is not None and adapter_name not in attachment.configs:
        raise AttachmentError(
            f"the model has no adapter {adapter_name!r}. It has {list(attachment.configs)}."
        )
    attachment.active = adapter_name
    config = None if adapter_name is None else attachment.configs[adapter_name]
    for hook in attachment.hooks:
        hook.is_active = config is not None
        hook.elastic_factors = () if config is None else config.elastic_factors
    for _, module, _ in adapter_parts(model):
        module.coda_active = adapter_name


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Run the dense pretrained model while the context is open.

    Unlike `set_adapter(model, None)` and back, this changes nothing else: no reduction factor and
    not what is trainable. Within a training step it gives the teacher of the adapter.

    Args:
        model: A model that `attach` was called on.

    Yields:
        Nothing; call the model as usual.

    Raises:
        AttachmentError: If the model has no conditional adapters.
    """
    active = get_attachment(model).active
    switch(model, None)
    try:
        yield
    finally:
        switch(model, active)
