"""Look at routing decisions while a model runs, through hooks on its routers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..attach import active_adapter, conditional_layers
from ..modules import RoutingDecision


@dataclass
class RoutingRecord:
    """The decisions of the most recent forward pass.

    Attributes:
        layers: One entry per encoder layer, in order; None for a layer that processed every token
            (a dense layer, or reduction factor 1) or has not run yet.
    """

    layers: list[RoutingDecision | None] = field(default_factory=list)

    def layer_counts(self) -> Int[Tensor, "batch seq"]:
        """Count, for each token, the routed layers that processed it."""
        decisions = [decision for decision in self.layers if decision is not None]
        counts = torch.zeros_like(decisions[0].router_logits, dtype=torch.int64)
        for decision in decisions:
            counts.scatter_add_(1, decision.selected_indices, decision.is_selected.long())
        return counts


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
        AttachmentError: If the model has no active adapter.

    Example:
        >>> with record_routing(model) as routing:
        ...     model(**batch)
        >>> routing.layers[0].selected_indices
    """
    name = active_adapter(model)
    layers = conditional_layers(model)
    record = RoutingRecord([None] * len(layers))
    handles = []
    for index, layer in enumerate(layers):
        router = layer.coda_part(name).router
        if router is not None:
            handles.append(router.register_forward_hook(partial(_store, record, index)))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _store(
    record: RoutingRecord,
    index: int,
    router: nn.Module,
    args: tuple[object, ...],
    decision: RoutingDecision,
) -> None:
    record.layers[index] = decision
