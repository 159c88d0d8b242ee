"""Build the modules of one adapter in the layers of a model."""

from collections.abc import Iterable, Iterator
from inspect import signature
from typing import cast

import torch
from torch import nn

from ..config import ConditionalAdapterConfig
from ..modules import ConditionalLayer, LayerAdapter, ParallelAdapter, Router
from ..modules._subclass import add_mixin
from ..modules.attention import route_attention
from ..modules.switchable import add_copy
from .structure import Sites


def build_adapter(
    sites: Sites, config: ConditionalAdapterConfig, adapter_name: str, heads: tuple[str, ...]
) -> None:
    """Add the modules of a new adapter to the layers, norms and `heads` (paths) of a model."""
    spec, num_layers = sites.spec, len(sites.encoder_layers)
    dense = {index % num_layers for index in config.dense_layers}
    adapted = {sites.encoder: sites.encoder_layers}
    if config.adapt_decoder and sites.decoder is not None and sites.decoder_layers is not None:
        adapted[sites.decoder] = sites.decoder_layers
    for stack, layers in adapted.items():
        for index, layer in enumerate(layers):
            is_routed = stack is sites.encoder and index not in dense
            conditional = _make_conditional(layer, sites)
            conditional.coda_adapters[adapter_name] = _layer_adapter(
                layer, stack, sites, config, index, is_routed=is_routed
            )
    if config.attention_mode == "k_to_all" or spec.attention_mixin.coda_for_any_keys:
        for layer in sites.encoder_layers:
            route_attention(layer.get_submodule(spec.attention or ""), spec.attention_mixin)
    _copy_first_router(sites, adapter_name)
    saved = [sites.model.get_submodule(path) for path in heads]
    if config.train_norms:
        in_heads = {module for head in saved for module in head.modules()}
        for norm in _norms(adapted):
            if norm not in in_heads:
                add_copy(norm, adapter_name)
    for head in saved:
        add_copy(head, adapter_name)


def _copy_first_router(sites: Sites, adapter_name: str) -> None:
    """Give all routers of a new adapter the same initial parameters.

    Layers with the same router direction select much the same tokens, so a layer can read the
    updates of the layer before (docs/decisions/0003).
    """
    layers = [layer for layer in sites.encoder_layers if isinstance(layer, ConditionalLayer)]
    routers = [layer.coda_part(adapter_name).router for layer in layers]
    learned = [router for router in routers if router is not None]
    for router in learned[1:]:
        router.load_state_dict(learned[0].state_dict())


def _make_conditional(layer: nn.Module, sites: Sites) -> ConditionalLayer:
    if isinstance(layer, ConditionalLayer):
        return layer
    argument_names = tuple(signature(layer.forward).parameters)[1:]
    mixin = cast("type[ConditionalLayer]", sites.spec.layer_mixin or ConditionalLayer)
    conditional = add_mixin(layer, mixin)
    submodules = dict(layer.named_modules())
    for path, submodule_mixin in sites.spec.submodule_mixins.items():
        if path in submodules:
            add_mixin(submodules[path], submodule_mixin)
    conditional.coda_spec = sites.spec.resolve(sites.config)
    conditional.coda_argument_names = argument_names
    conditional.coda_adapters = nn.ModuleDict()
    conditional.coda_active = None
    conditional.coda_dense_below = None
    return conditional


def _layer_adapter(
    layer: nn.Module,
    stack: nn.Module,
    sites: Sites,
    config: ConditionalAdapterConfig,
    index: int,
    *,
    is_routed: bool,
) -> LayerAdapter:
    # Encoder and decoder may have different widths.
    hidden_size = getattr(stack, "config", sites.config).hidden_size
    reference = next(p for p in layer.parameters() if p.is_floating_point())
    # Half precision would round away small steps of the optimiser.
    dtype = torch.promote_types(reference.dtype, torch.float32)
    adapter = ParallelAdapter(
        hidden_size,
        config.adapter_dim,
        activation=config.adapter_activation,
        dtype=dtype,
        device=reference.device,
    )
    router = None
    if is_routed:
        router = Router(
            hidden_size,
            kind=config.router_kind,
            epsilon=config.epsilon,
            method=config.soft_topk,
            gate=config.gate,
            seed=index,
            device=reference.device,
        )
    parts = LayerAdapter(adapter, router, config.default_reduction_factor, config.attention_mode)
    return parts.train(layer.training)


def _norms(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layer norms in `modules`, except the copies that adapters own."""
    suffixes = ("LayerNorm", "RMSNorm")
    for root in modules:
        for path, module in list(root.named_modules()):
            is_norm = isinstance(module, nn.LayerNorm | nn.RMSNorm)
            is_copy = "coda_copies." in path
            # Whole layers are called EncoderLayerStableLayerNorm.
            is_leaf = all(name == "coda_copies" for name, _ in module.named_children())
            named_so = is_leaf and type(module).__name__.endswith(suffixes)
            if (is_norm or named_so) and not is_copy:
                yield module
