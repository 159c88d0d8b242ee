"""Record routing decisions while a model runs, by hooks on its routers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..errors import AttachmentError
from ..model.attachment import active_adapter, conditional_layers
from ..model.structure import find_sites
from ..modules import RoutingDecision
from ..modules.context import ADAPTERS_ARGUMENT, CONTEXT_ARGUMENT


@dataclass
class RoutingRecord:
    """The decisions of the most recent forward pass.

    Attributes:
        layers: One entry per encoder layer, in order; None for a layer that processed every token
            (a dense layer, or reduction factor 1) or has not run yet. A layer that is applied
            several times, as in ALBERT, has one entry per application, in order of computation.
        token_mask: True for real tokens; None if nothing is padding.
    """

    layers: list[RoutingDecision | None] = field(default_factory=list)
    token_mask: Bool[Tensor, "batch seq"] | None = None

    def layer_counts(self) -> Int[Tensor, "batch seq"]:
        """Number of routed layers that processed each token."""
        decisions = [decision for decision in self.layers if decision is not None]
        return torch.stack([chosen_tokens(decision) for decision in decisions]).sum(0)

    def processed_tokens(self) -> Bool[Tensor, "layers batch seq"]:
        """Mask of the tokens that each layer processed. A dense layer processes all but padding."""
        chosen = [None if layer is None else chosen_tokens(layer) for layer in self.layers]
        shape = next(mask for mask in chosen if mask is not None)
        everything = torch.ones_like(shape) if self.token_mask is None else self.token_mask
        return torch.stack([everything if mask is None else mask for mask in chosen])


def chosen_tokens(decision: RoutingDecision) -> Bool[Tensor, "batch seq"]:
    """Expand the selected indices of a decision to a mask over the sequence."""
    counts = torch.zeros_like(decision.router_logits, dtype=torch.int64)
    counts.scatter_add_(1, decision.selected_indices, decision.is_selected.long())
    return counts > 0


@contextmanager
def record_routing(model: nn.Module) -> Iterator[RoutingRecord]:
    """Record which tokens each layer processes while the context is open.

    Args:
        model: A conditional model with an active adapter. Run it eagerly: compiled graphs do not
            call hooks that were registered after compilation.

    Yields:
        The record. Every forward pass overwrites it. Tensors keep their autograd graph unless the
        model runs under `torch.no_grad()`.

    Raises:
        AttachmentError: If the model has no active adapter, or is called with `adapter_names`.

    Example:
        >>> with record_routing(model) as routing:
        ...     model(**batch)
        >>> routing.layers[0].selected_indices
    """
    name = active_adapter(model)
    layers = conditional_layers(model)
    recorder = _Recorder(len(layers))
    handles = [
        find_sites(model).encoder.register_forward_pre_hook(recorder.restart),
        layers[0].register_forward_pre_hook(recorder.store_mask, with_kwargs=True),
    ]
    for index, layer in enumerate(layers):
        router = layer.coda_part(name).router
        if router is not None:
            handles.append(layer.register_forward_pre_hook(partial(recorder.enter, index)))
            handles.append(router.register_forward_hook(partial(recorder.store, index)))
    try:
        yield recorder.record
    finally:
        for handle in handles:
            handle.remove()


class _Recorder:
    """Hooks that fill a record.

    Applications are counted when a layer is called, not when its router is: gradient checkpointing
    runs the router a second time, and its decision replaces the first one.
    """

    def __init__(self, num_layers: int) -> None:
        self.record = RoutingRecord([None] * num_layers)
        self.applications = [0] * num_layers

    def restart(self, encoder: nn.Module, args: object) -> None:
        num_layers = len(self.applications)
        self.record.layers = [None] * num_layers
        self.applications = [0] * num_layers
        self.record.token_mask = None

    def store_mask(self, layer: nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        if kwargs.get(ADAPTERS_ARGUMENT) is not None:
            raise AttachmentError(
                "record_routing cannot record a call with adapter_names: it records the routers "
                "of the active adapter only. Call set_adapter(model, name) and run the examples of "
                "each adapter without adapter_names."
            )
        context = kwargs.get(CONTEXT_ARGUMENT)
        self.record.token_mask = None if context is None else context.token_mask

    def enter(self, index: int, layer: nn.Module, args: object) -> None:
        self.applications[index] += 1

    def store(self, index: int, router: nn.Module, args: object, decision: RoutingDecision) -> None:
        num_layers = len(self.applications)
        earlier = num_layers * (self.applications[index] - 1)
        missing = earlier + num_layers - len(self.record.layers)
        self.record.layers += [None] * missing
        self.record.layers[earlier + index] = decision
