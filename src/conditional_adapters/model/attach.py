"""Add conditional adapters to a model in place, switch between them, and remove them.

`attach` freezes the model, changes the class of its layers (see `modules._subclass`) and gives each
of them a named router and adapter. It wraps and renames nothing: the model is the same object with
the same parameter names plus those of the adapter. One `Attachment` on the model keeps the state
that `detach` needs.
"""

from typing import TypeVar

from torch import nn

from ..config import ConditionalAdapterConfig, check_reduction_factor
from ..errors import AttachmentError, ConfigError
from ..modules import AdapterNamesHook, ContextHook
from ..modules._subclass import restore
from ..modules.attention import IMPLEMENTATIONS
from ..modules.statistics import freeze_statistics
from .attachment import (
    ATTRIBUTE,
    Attachment,
    Removable,
    active_adapter,
    adapter_parameters,
    adapter_parts,
    conditional_layers,
    get_attachment,
    is_attached,
    switch,
)
from .build import build_adapter
from .structure import Sites, find_sites, head_names, transformers_model

ModelT = TypeVar("ModelT", bound=nn.Module)


def attach(
    model: ModelT,
    config: ConditionalAdapterConfig | None = None,
    *,
    adapter_name: str = "default",
) -> ModelT:
    """Add conditional adapters to a pretrained model, in place.

    All parameters of the model are frozen (except those that PEFT trains), and so are the running
    statistics of normalisation layers. The adapter's parameters are trainable, in float32 also for
    half-precision models. Layers process only `ceil(n / r)` tokens from now on, so outputs differ
    from those of the dense model until the adapter is trained; with `reduction_factor=1` they are
    equal.

    Args:
        model: A transformers model of a supported type, or a PEFT model around one.
        config: Configuration of the adapter; None means the defaults.
        adapter_name: The name of the adapter; letters, digits, `_` and `-`.

    Returns:
        The same object.

    Raises:
        UnsupportedArchitectureError: If there is no record for the model.
        AttachmentError: If the model already has conditional adapters.
        ConfigError: If a field of the configuration does not fit this model.

    Example:
        >>> model = attach(model, ConditionalAdapterConfig(reduction_factor=4))
    """
    if is_attached(model):
        names = ", ".join(map(repr, get_attachment(model).configs))
        raise AttachmentError(
            f"the model already has conditional adapters ({names}). Call detach(model) first, or "
            "add another one with load_adapter(model, directory, adapter_name=...)."
        )
    config = config or ConditionalAdapterConfig()
    sites = find_sites(model)
    heads = _check(sites, config, adapter_name)
    trainable = tuple(name for name, p in sites.model.named_parameters() if p.requires_grad)
    attachment = Attachment((), trainable=trainable)
    _register_hooks(sites, attachment)
    has_peft_layers = any(hasattr(module, "adapter_layer_names") for module in model.modules())
    if not has_peft_layers:  # PEFT has frozen the others already
        sites.model.requires_grad_(False)
    setattr(sites.model, ATTRIBUTE, attachment)
    build_adapter(sites, config, adapter_name, heads)
    freeze_statistics(sites.model)
    _register(model, config, adapter_name, heads)
    return model


def add_adapter(model: nn.Module, config: ConditionalAdapterConfig, *, adapter_name: str) -> None:
    """Add another adapter to a conditional model and activate it.

    Args:
        model: A model that `attach` was called on.
        config: Configuration of the adapter.
        adapter_name: A new name.

    Raises:
        AttachmentError: If the name is taken or the model has no conditional adapters.
        ConfigError: If a field of the configuration does not fit this model.
    """
    attachment = get_attachment(model)
    if adapter_name in attachment.configs:
        raise AttachmentError(
            f"the model already has an adapter {adapter_name!r}. Choose another adapter_name."
        )
    sites = find_sites(model)
    heads = _check(sites, config, adapter_name)
    build_adapter(sites, config, adapter_name, heads)
    _register(model, config, adapter_name, heads)


def remove_adapter(model: nn.Module, adapter_name: str) -> None:
    """Remove one of several adapters.

    Args:
        model: A model that `attach` was called on.
        adapter_name: The adapter to remove. If it is active, no adapter is active afterwards.

    Raises:
        AttachmentError: If there is no such adapter, or it is the only one.
    """
    attachment = get_attachment(model)
    if adapter_name not in attachment.configs or len(attachment.configs) == 1:
        raise AttachmentError(
            f"cannot remove adapter {adapter_name!r}: the model has {list(attachment.configs)}. "
            "Name one of several, or call detach(model) to remove the last one."
        )
    for _, _, parts in adapter_parts(model):
        if adapter_name in parts:
            del parts[adapter_name]
    del attachment.configs[adapter_name], attachment.heads[adapter_name]
    if attachment.active == adapter_name:
        set_adapter(model, None)


def detach(model: ModelT) -> ModelT:
    """Remove all conditional adapters and restore the dense model, bit for bit.

    Args:
        model: A model that `attach` was called on.

    Returns:
        The same object. The parameters that were trainable before `attach` are trainable again.

    Raises:
        AttachmentError: If the model has no conditional adapters.
    """
    attachment = get_attachment(model)
    outer = transformers_model(model)
    for handle in attachment.handles:
        handle.remove()
    for module in list(outer.modules()):
        restore(module, outer.training)
    delattr(outer, ATTRIBUTE)
    for name, parameter in outer.named_parameters():
        parameter.requires_grad_(name in attachment.trainable)
    return model


def set_adapter(model: nn.Module, adapter_name: str | None) -> None:
    """Activate an adapter; None runs the dense pretrained model.

    The adapter's parameters become trainable, because other libraries may have frozen them.

    Args:
        model: A model that `attach` was called on.
        adapter_name: One of its adapters, or None.

    Raises:
        AttachmentError: If there is no such adapter.
    """
    switch(model, adapter_name)
    if adapter_name is not None:
        for _, parameter in adapter_parameters(model, adapter_name):
            parameter.requires_grad_()


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


def set_dense_below(model: nn.Module, num_tokens: int | None) -> None:
    """Run small batches dense, as at r = 1, because routing costs them more than it saves.

    The number of tokens of a batch is its number of examples times the padded length. The output
    for an example then depends on the size of its batch, as small batches get the output of r = 1.
    Training is not affected. Measure the limit with `coda bench --break-even`; it depends on the
    machine and is not saved with an adapter.

    Args:
        model: A model that `attach` was called on.
        num_tokens: Batches with fewer tokens, padding included, run dense; >= 1. None, the default
            after `attach`, routes all batches.

    Raises:
        ConfigError: If the number is out of range.
        AttachmentError: If the model has no conditional adapters.

    Example:
        >>> set_dense_below(model, 64)
    """
    layers = conditional_layers(model)
    if num_tokens is not None and (not isinstance(num_tokens, int) or num_tokens < 1):
        raise ConfigError(
            f"num_tokens must be a whole number of at least 1, or None, got {num_tokens!r}. Use "
            "the output of `coda bench --break-even`, or None to route every batch."
        )
    for layer in layers:
        layer.coda_dense_below = num_tokens


def _check(sites: Sites, config: ConditionalAdapterConfig, adapter_name: str) -> tuple[str, ...]:
    """Check the arguments before any change of the model; return the paths of the heads."""
    if not adapter_name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(
            f"adapter_name must consist of letters, digits, '_' and '-', got {adapter_name!r}. "
            "Choose another name."
        )
    mode, model_type = config.attention_mode, sites.config.model_type
    if mode == "k_to_all" and sites.spec.attention is None:
        raise ConfigError(
            f"attention_mode 'k_to_all' is not available for {model_type!r}, whose attention does "
            "not call attention functions of transformers. Use 'k_to_k'."
        )
    implementation = sites.config._attn_implementation
    if implementation == "flex_attention":
        raise ConfigError(
            "flex attention is not supported: its block masks cannot be reduced to selected "
            "tokens. Call model.set_attn_implementation('sdpa') first."
        )
    needs_routed_attention = mode == "k_to_all" or sites.spec.attention_mixin.coda_for_any_keys
    if needs_routed_attention and implementation not in IMPLEMENTATIONS:
        raise ConfigError(
            f"attention_mode {mode!r} of {model_type!r} requires {' or '.join(IMPLEMENTATIONS)} "
            f"attention, got {implementation!r}. Call model.set_attn_implementation('sdpa') first."
        )
    num_layers = len(sites.encoder_layers)
    for index in config.dense_layers:
        if not -num_layers <= index < num_layers:
            raise ConfigError(
                f"dense_layers contains {index}, but the encoder has {num_layers} layers. Use "
                f"numbers from {-num_layers} to {num_layers - 1}."
            )
    return head_names(sites, config.modules_to_save)


def _register_hooks(sites: Sites, attachment: Attachment) -> None:
    """Register the hooks that read `adapter_names` and the sequence lengths."""
    spec, scope = sites.spec, attachment.scope
    names_hook = AdapterNamesHook(scope, attachment.configs)
    models = [sites.model, sites.inner, sites.inner.base_model, *sites.mask_sources]
    names_hook.models = list(dict.fromkeys(models))
    handles: list[Removable] = [names_hook]
    handles += [
        model.register_forward_pre_hook(names_hook, with_kwargs=True)
        for model in names_hook.models
        if model not in sites.mask_sources
    ]
    for source in sites.mask_sources:
        hook = ContextHook(
            source,
            scope,
            names_hook,
            mask_argument=spec.mask_argument,
            token_mask=spec.token_mask,
            mask_role=spec.mask_role,
            passes_context=spec.passes_context,
        )
        attachment.hooks += (hook,)
        handles += hook.register(source)
    attachment.handles = tuple(handles)


def _register(
    model: nn.Module, config: ConditionalAdapterConfig, adapter_name: str, heads: tuple[str, ...]
) -> None:
    """Record a new adapter in the attachment and activate it."""
    attachment = get_attachment(model)
    attachment.configs[adapter_name] = config
    attachment.heads[adapter_name] = heads
    for _, module, _ in adapter_parts(model):
        module.coda_scope = attachment.scope
    set_adapter(model, adapter_name)
