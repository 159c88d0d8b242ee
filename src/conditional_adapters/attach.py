"""Turn a model into a conditional one, in place, and back.

`attach` freezes the model, changes the class of its layers (see `modules._subclass`) and gives each
of them a router and an adapter under a name. Nothing is wrapped and nothing is renamed: the model
is the same object with the same parameter names plus those of the adapter. What is needed to undo
it is kept in one `Attachment` on the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import nn
from transformers import PreTrainedModel

from ._build import build_adapter
from ._sites import Sites, find_sites, head_names, transformers_model
from .config import ConditionalAdapterConfig, check_reduction_factor
from .errors import AttachmentError, ConfigError
from .modules import ConditionalLayer, DynamicSubclass, RoutedAttention, SwitchableModule
from .modules._subclass import restore
from .modules.attention import IMPLEMENTATIONS
from .modules.sequence import ContextHook, RelayedContextHook
from .modules.statistics import FrozenStatistics, freeze_statistics, unfreeze_statistics
from .modules.switchable import remove_copies

ModelT = TypeVar("ModelT", bound=nn.Module)
_ATTRIBUTE = "coda_attachment"


class Removable(Protocol):
    """What `detach` takes away: the handle of a hook, or what an integration has added."""

    def remove(self) -> None:
        """Undo the addition."""


@dataclass
class Attachment:
    """The state of a conditional model that is not in its layers."""

    hooks: tuple[ContextHook, ...]
    handles: tuple[Removable, ...]
    configs: dict[str, ConditionalAdapterConfig] = field(default_factory=dict)
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)  # paths of copied task heads
    trainable: tuple[str, ...] = ()  # parameters that were trainable before
    active: str | None = None


def attach(
    model: ModelT,
    config: ConditionalAdapterConfig | None = None,
    *,
    adapter_name: str = "default",
) -> ModelT:
    """Make a pretrained model conditional, in place.

    Every parameter of the model is frozen (those that PEFT trains stay trainable), and so are the
    running statistics of normalisation layers. The adapter's parameters are trainable; in
    half-precision models they are kept in float32. Right after this call the layers still process
    only `ceil(n / r)` tokens, so outputs differ from the dense model until the adapter is trained;
    with `reduction_factor=1` they are equal.

    Args:
        model: A transformers model of a supported type, or a PEFT model around one.
        config: What to add; None means the defaults.
        adapter_name: The name of the adapter; letters, digits, `_` and `-`.

    Returns:
        The same object.

    Raises:
        UnsupportedArchitectureError: If there is no record for the model.
        AttachmentError: If the model has conditional adapters already.
        ConfigError: If a field of the configuration does not fit this model.

    Example:
        >>> model = attach(model, ConditionalAdapterConfig(reduction_factor=4))
    """
    if is_attached(model):
        names = ", ".join(map(repr, get_attachment(model).configs))
        raise AttachmentError(
            f"the model has conditional adapters already ({names}). Call detach(model) first, or "
            "load_adapter(model, directory, adapter_name=...) to put another one beside it."
        )
    config = config or ConditionalAdapterConfig()
    sites = find_sites(model)
    heads = _check(sites, config, adapter_name)
    spec = sites.spec
    hook_class = ContextHook if spec.passes_context else RelayedContextHook
    hooks = tuple(
        hook_class(source, spec.mask_argument, spec.token_mask) for source in sites.mask_sources
    )
    handles = tuple(
        handle
        for source, hook in zip(sites.mask_sources, hooks, strict=True)
        for handle in hook.register(source, sites.encoder_layers)
    )
    attachment = Attachment(hooks, handles, trainable=_trainable_names(sites.model))
    if not _has_peft_layers(model):
        sites.model.requires_grad_(False)
    setattr(sites.model, _ATTRIBUTE, attachment)
    build_adapter(sites, config, adapter_name, heads)
    freeze_statistics(sites.model)
    _register(model, config, adapter_name, heads)
    return model


def add_adapter(model: nn.Module, config: ConditionalAdapterConfig, *, adapter_name: str) -> None:
    """Put another adapter beside those of a conditional model and activate it.

    Args:
        model: A model that `attach` was called on.
        config: What to add.
        adapter_name: A new name.

    Raises:
        AttachmentError: If the name is taken or the model has no conditional adapters.
        ConfigError: If a field of the configuration does not fit this model.
    """
    attachment = get_attachment(model)
    if adapter_name in attachment.configs:
        raise AttachmentError(
            f"the model has an adapter {adapter_name!r} already. Choose another adapter_name."
        )
    sites = find_sites(model)
    heads = _check(sites, config, adapter_name)
    build_adapter(sites, config, adapter_name, heads)
    _register(model, config, adapter_name, heads)


def remove_adapter(model: nn.Module, adapter_name: str) -> None:
    """Drop one of several adapters; the one that was active before stays active.

    Args:
        model: A model that `attach` was called on.
        adapter_name: The adapter to drop. If it is active, no adapter is active afterwards.

    Raises:
        AttachmentError: If there is no such adapter, or it is the only one.
    """
    attachment = get_attachment(model)
    if adapter_name not in attachment.configs or len(attachment.configs) == 1:
        raise AttachmentError(
            f"cannot remove adapter {adapter_name!r}: the model has {list(attachment.configs)}. "
            "Name one of several, or call detach(model) to remove the last."
        )
    for module in transformers_model(model).modules():
        if isinstance(module, ConditionalLayer) and adapter_name in module.coda_adapters:
            del module.coda_adapters[adapter_name]
        elif isinstance(module, SwitchableModule) and adapter_name in module.coda_copies:
            del module.coda_copies[adapter_name]
    del attachment.configs[adapter_name], attachment.heads[adapter_name]
    if attachment.active == adapter_name:
        set_adapter(model, None)


def detach(model: ModelT) -> ModelT:
    """Remove all conditional adapters: the dense model again, bit for bit.

    Args:
        model: A model that `attach` was called on.

    Returns:
        The same object, with the parameters that were trainable before trainable again.

    Raises:
        AttachmentError: If the model has no conditional adapters.
    """
    attachment = get_attachment(model)
    outer = transformers_model(model)
    for handle in attachment.handles:
        handle.remove()
    for module in list(outer.modules()):
        if isinstance(module, ConditionalLayer):
            del module.coda_adapters, module.coda_active, module.coda_plan
            restore(module)
        elif isinstance(module, SwitchableModule):
            remove_copies(module)
        elif isinstance(module, RoutedAttention):
            del module.coda_config
            restore(module)
        elif isinstance(module, FrozenStatistics):
            unfreeze_statistics(module, outer.training)
        elif isinstance(module, DynamicSubclass):
            restore(module)
    delattr(outer, _ATTRIBUTE)
    for name, parameter in outer.named_parameters():
        parameter.requires_grad_(name in attachment.trainable)
    return model


def set_adapter(model: nn.Module, adapter_name: str | None) -> None:
    """Choose the adapter that answers; None runs the dense pretrained model.

    Its parameters become trainable, in case another library has frozen all that it does not know.

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
        hook.is_active = adapter_name is not None
        hook.elastic_factors = () if config is None else config.elastic_factors
    for module in transformers_model(model).modules():
        if isinstance(module, ConditionalLayer | SwitchableModule):
            module.coda_active = adapter_name
    if adapter_name is not None:
        for _, parameter in adapter_parameters(model, adapter_name):
            parameter.requires_grad_()


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
    attachment = get_attachment(model)
    active = attachment.active
    modules = [
        (module, module.coda_active)
        for module in transformers_model(model).modules()
        if isinstance(module, ConditionalLayer | SwitchableModule)
    ]
    hooks = [(hook, hook.is_active) for hook in attachment.hooks]
    try:
        attachment.active = None
        for module, _ in modules:
            module.coda_active = None
        for hook, _ in hooks:
            hook.is_active = False
        yield
    finally:
        attachment.active = active
        for module, name in modules:
            module.coda_active = name
        for hook, is_active in hooks:
            hook.is_active = is_active


def set_reduction_factor(model: nn.Module, reduction_factor: float) -> None:
    """Set r of the active adapter: each conditional layer processes `ceil(n / r)` of n tokens.

    Args:
        model: A model that `attach` was called on, with an active adapter.
        reduction_factor: A number >= 1. While an elastic adapter is training, its own factors are
            sampled instead.

    Raises:
        ConfigError: If the factor is out of range.
        AttachmentError: If there is no active adapter.
    """
    factor, name = check_reduction_factor(reduction_factor), active_adapter(model)
    for layer in conditional_layers(model):
        layer.coda_part(name).reduction_factor = factor


def is_attached(model: nn.Module) -> bool:
    """Tell whether a model has conditional adapters."""
    return any(hasattr(module, _ATTRIBUTE) for module in model.modules())


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
        if hasattr(module, _ATTRIBUTE):
            attachment: Attachment = getattr(module, _ATTRIBUTE)
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


def adapter_parameters(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that belong to an adapter, by their paths in the transformers model."""
    for path, module in transformers_model(model).named_modules():
        if isinstance(module, ConditionalLayer):
            parts, attribute = module.coda_adapters, "coda_adapters"
        elif isinstance(module, SwitchableModule):
            parts, attribute = module.coda_copies, "coda_copies"
        else:
            continue
        if adapter_name in parts:
            prefix = f"{path}.{attribute}.{adapter_name}"
            yield from parts[adapter_name].named_parameters(prefix=prefix)


def _check(sites: Sites, config: ConditionalAdapterConfig, adapter_name: str) -> tuple[str, ...]:
    """Refuse what does not fit before anything is changed; return the paths of the heads."""
    if not adapter_name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(
            f"adapter_name must consist of letters, digits, '_' and '-', got {adapter_name!r}."
        )
    if config.attention_mode == "k_to_all" and sites.spec.attention is None:
        raise ConfigError(
            f"attention_mode 'k_to_all' is not available for {sites.config.model_type!r}: its "
            "attention does not go through transformers' attention functions. Use 'k_to_k'."
        )
    if sites.config._attn_implementation == "flex_attention":
        raise ConfigError(
            "flex attention is not supported: its block masks cannot be reduced to chosen tokens. "
            "Call model.set_attn_implementation('sdpa') first."
        )
    if config.attention_mode == "k_to_all" or sites.spec.attention_mixin.coda_for_any_keys:
        implementation = sites.config._attn_implementation
        if implementation not in IMPLEMENTATIONS:
            raise ConfigError(
                f"attention_mode {config.attention_mode!r} of {sites.config.model_type!r} works "
                f"with {' and '.join(IMPLEMENTATIONS)} attention, and this model uses "
                f"{implementation!r}. Call model.set_attn_implementation('sdpa') first."
            )
    num_layers = len(sites.encoder_layers)
    for index in config.dense_layers:
        if not -num_layers <= index < num_layers:
            raise ConfigError(
                f"dense_layers contains {index}, but the encoder has {num_layers} layers. Use "
                f"numbers from {-num_layers} to {num_layers - 1}."
            )
    return head_names(sites, config.modules_to_save)


def _register(
    model: nn.Module,
    config: ConditionalAdapterConfig,
    adapter_name: str,
    heads: tuple[str, ...],
) -> None:
    """Note a new adapter and activate it."""
    attachment = get_attachment(model)
    attachment.configs[adapter_name] = config
    attachment.heads[adapter_name] = heads
    set_adapter(model, adapter_name)


def _trainable_names(model: PreTrainedModel) -> tuple[str, ...]:
    return tuple(name for name, p in model.named_parameters() if p.requires_grad)


def _has_peft_layers(model: nn.Module) -> bool:
    """Tell whether PEFT trains parts of the model; its layers name their adapters' modules."""
    return any(hasattr(module, "adapter_layer_names") for module in model.modules())
