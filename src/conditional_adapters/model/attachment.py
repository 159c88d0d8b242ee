"""State of a conditional model outside its layers: adapters, hooks and the active adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from ..config import ConditionalAdapterConfig
from ..errors import AttachmentError
from ..modules import ConditionalLayer, ContextHook, ForwardScope, SwitchableModule
from .structure import find_sites, transformers_model

ATTRIBUTE = "coda_attachment"  # of the transformers model


class Removable(Protocol):
    """The handle of a hook or of another addition that `detach` removes."""

    def remove(self) -> None:
        """Undo the addition."""


@dataclass
class Attachment:
    """State of a conditional model; `attach` stores it on the model."""

    hooks: tuple[ContextHook, ...]
    handles: tuple[Removable, ...] = ()
    configs: dict[str, ConditionalAdapterConfig] = field(default_factory=dict)
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)  # paths of copied task heads
    trainable: tuple[str, ...] = ()  # parameters that were trainable before
    active: str | None = None
    scope: ForwardScope = field(default_factory=ForwardScope)


def is_attached(model: nn.Module) -> bool:
    """Whether a model has conditional adapters."""
    return any(hasattr(module, ATTRIBUTE) for module in model.modules())


def get_attachment(model: nn.Module) -> Attachment:
    """Return the attachment of a conditional model; raise `AttachmentError` if it has none."""
    for module in model.modules():
        if hasattr(module, ATTRIBUTE):
            attachment: Attachment = getattr(module, ATTRIBUTE)
            return attachment
    raise AttachmentError(
        f"this {type(model).__name__} has no conditional adapters. Call attach(model, config) or "
        "load_adapter(model, directory) first."
    )


def active_adapter(model: nn.Module) -> str:
    """Return the name of the active adapter; raise `AttachmentError` if none is active."""
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
    """Yield each `ModuleDict` of adapter modules: path in the transformers model, owner, itself."""
    for path, module in transformers_model(model).named_modules():
        if isinstance(module, ConditionalLayer):
            yield f"{path}.coda_adapters", module, module.coda_adapters
        elif isinstance(module, SwitchableModule):
            yield f"{path}.coda_copies", module, module.coda_copies


def adapter_parameters(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of an adapter and their paths in the transformers model."""
    for path, _, parts in adapter_parts(model):
        if adapter_name in parts:
            yield from parts[adapter_name].named_parameters(prefix=f"{path}.{adapter_name}")


def switch(model: nn.Module, adapter_name: str | None) -> None:
    """Activate an adapter, or none, without changing which parameters are trainable."""
    attachment = get_attachment(model)
    if adapter_name is not None and adapter_name not in attachment.configs:
        raise AttachmentError(
            f"the model has no adapter {adapter_name!r}. It has {list(attachment.configs)}. Use "
            "one of these names, or add the adapter first."
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
    """Run the dense pretrained model within the context, for example as a teacher.

    Unlike `set_adapter(model, None)` and back, this does not change which parameters are trainable.
    """
    active = get_attachment(model).active
    switch(model, None)
    try:
        yield
    finally:
        switch(model, active)
