"""Look at routing decisions while a model runs, through hooks on its routers."""

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

    ALBERT applies its layer many times. All applications share one router and one adapter, but
    each has a decision of its own, since the states differ.

    Attributes:
        layers: One entry per encoder layer, in order; None for a layer that processed every token
            (a dense layer, or reduction factor 1) or has not run yet. Where layers are applied
            repeatedly: one entry per application, in the order of computation.
        token_mask: True for real tokens; None if nothing is padding.
    """

    layers: list[RoutingDecision | None] = field(default_factory=list)
    token_mask: Bool[Tensor, "batch seq"] | None = None

    def layer_counts(self) -> Int[Tensor, "batch seq"]:
        """Count, for each token, the routed layers that processed it."""
        decisions = [decision for decision in self.layers if decision is not None]
        return torch.stack([chosen_tokens(decision) for decision in decisions]).sum(0)

    def processed_tokens(self) -> Bool[Tensor, "layers batch seq"]:
        """Tell which tokens each layer processed; a dense layer processes all but padding."""
        chosen = [None if layer is None else chosen_tokens(layer) for layer in self.layers]
        shape = next(mask for mask in chosen if mask is not None)
        everything = torch.ones_like(shape) if self.token_mask is None else self.token_mask
        return torch.stack([everything if mask is None else mask for mask in chosen])


def chosen_tokens(decision: RoutingDecision) -> Bool[Tensor, "batch seq"]:
    """Spread the indices of a decision over the sequence.

    Args:
        decision: What a router decided.

    Returns:
        True where a token was chosen; unused slots choose nothing.
    """
    counts = torch.zeros_like(decision.router_logits, dtype=torch.int64)
    counts.scatter_add_(1, decision.selected_indices, decision.is_selected.long())
    return counts > 0


@contextmanager
def record_routing(model: nn.Module) -> Iterator[RoutingRecord]:
    """Record which tokens each layer processes while the context is open.

    Args:
        model: A conditional model with an active adapter. Run it eagerly: compiled code does not
            call hooks that were added later.

    Yields:
        The record; every forward pass overwrites the one before. Tensors keep their graph unless
        the model runs under `torch.no_grad()`.

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
    """Fills a record: counts how often each layer ran, and stores each decision in its place.

    The count is taken when a layer is called, not when its router is: gradient checkpointing runs
    the router once more, and then the decision belongs where it is already.
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
                "record_routing records the routers of the active adapter, and this call names "
                "adapters row by row. Call set_adapter(model, name) and run the rows of each "
                "adapter without adapter_names."
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
