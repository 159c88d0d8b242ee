"""Initialise routers at salient tokens: those whose update in the frozen layers is hard to predict.

The light branch replaces the frozen layers for skipped tokens. Where a linear map of the token's
own state predicts the update of the layers well (silence, an empty background, punctuation), a
small adapter can do that; where it does not, the token needs the layers. The salience of a token is

    a(token) = mean over layers of log |U - linear prediction of U from N|^2,

where U is the layer's update and N the normalised state that the router reads. Each router starts
at the linear map of its own N that fits the salience best. All routers fit the same salience,
because layers that choose different tokens do not read each other's output (docs/decisions/0003).

It takes two passes over a few batches through the dense layers, without gradients.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..analysis import record_routing
from ..analysis._modes import evaluating, keeping_reduction_factor
from ..errors import ConfigError
from ..model.attach import set_reduction_factor
from ..model.attachment import active_adapter, conditional_layers
from ..modules import ConditionalLayer, layer_states
from .objectives import Batch, encoder_states

_RIDGE = 1e-2  # of the mean variance of the state coordinates; our choice


def start_routers(model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[float, ...]:
    """Initialise the routers of the active adapter at salient tokens.

    Args:
        model: A conditional model whose active adapter is untrained and has learned routers. Only
            the weights of the routers change.
        batches: A few batches of the model's arguments, some thousand tokens in total without
            padding. They are read twice.

    Returns:
        For each layer with a router, in order, the squared correlation of its scores with the
        salience, from 0 to 1. Scores have a standard deviation of 1.

    Raises:
        ConfigError: If no router is learned, or the batches have too few tokens.
        AttachmentError: If the model has no active adapter.

    Source:
        Our choice (docs/decisions/0010).
    """
    name = active_adapter(model)
    routers = {
        index: part.router
        for index, layer in enumerate(conditional_layers(model))
        if (part := layer.coda_part(name)).router is not None and part.router.kind == "learned"
    }
    if not routers:
        raise ConfigError(
            "the active adapter has no learned router to start at salient tokens. Attach it with "
            "router_kind='learned', or do not use the salient start."
        )
    updates = {index: _Regression() for index in routers}
    saliences = {index: _Regression() for index in routers}
    explained = []
    with evaluating(model), keeping_reduction_factor(model), torch.no_grad():
        set_reduction_factor(model, 1)
        for batch in batches:
            for index, (states, update) in _layer_updates(model, routers, batch).items():
                updates[index].add(states, update)
        if min(regression.count for regression in updates.values()) < 2:
            raise ConfigError(
                "the salient start of routers needs at least 2 tokens; some thousand are "
                "sensible. Pass more rows."
            )
        for regression in updates.values():
            regression.solve()
        for batch in batches:
            layers = _layer_updates(model, routers, batch)
            errors = [updates[index].squared_error(*layers[index]) for index in layers]
            salience = torch.stack([e.clamp_min(1e-30).log() for e in errors]).mean(0)
            for index, (states, _) in layers.items():
                saliences[index].add(states, salience.unsqueeze(-1))
        for index, router in routers.items():
            explained.append(saliences[index].solve())
            weight, covariance = saliences[index].weight.squeeze(-1), saliences[index].covariance
            deviation = (weight @ covariance @ weight).sqrt().clamp_min(1e-12)
            router.weight.copy_(weight / deviation)
    return tuple(explained)


class _Regression:
    """Ridge regression of targets on states with an intercept, from accumulated moments."""

    weight: Float[Tensor, "hidden targets"]
    mean: Float[Tensor, " hidden"]
    target_mean: Float[Tensor, " targets"]
    covariance: Float[Tensor, "hidden hidden"]

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(
        self, states: Float[Tensor, "tokens hidden"], target: Float[Tensor, "tokens targets"]
    ) -> None:
        states, target = states.double(), target.double()
        self.count += len(states)
        new = {
            "states": states.sum(0),
            "target": target.sum(0),
            "gram": states.T @ states,
            "cross": states.T @ target,
            "square": target.square().sum(),
        }
        self.sums = {key: self.sums.get(key, 0) + value for key, value in new.items()}

    def solve(self) -> float:
        """Fit the weight; return the explained share of the targets' variance, 0 to 1."""
        moments = {key: value / self.count for key, value in self.sums.items()}
        self.mean, self.target_mean = moments["states"], moments["target"]
        self.covariance = moments["gram"] - self.mean.outer(self.mean)
        cross = moments["cross"] - self.mean.outer(self.target_mean)
        variance = moments["square"] - self.target_mean.square().sum()
        ridge = _RIDGE * self.covariance.diagonal().mean().clamp_min(1e-12)
        identity = torch.eye(len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        self.weight = torch.linalg.solve(self.covariance + ridge * identity, cross)
        fitted = (self.weight * (2 * cross - self.covariance @ self.weight)).sum()
        return float(fitted / variance.clamp_min(1e-30))

    def squared_error(
        self, states: Float[Tensor, "tokens hidden"], target: Float[Tensor, "tokens targets"]
    ) -> Float[Tensor, " tokens"]:
        predicted = (states.double() - self.mean) @ self.weight
        return (target.double() - self.target_mean - predicted).square().sum(-1)


def _layer_updates(
    model: PreTrainedModel, indices: Iterable[int], batch: Batch
) -> dict[int, tuple[Tensor, Tensor]]:
    """Run the encoder; return normalised states and updates of the valid tokens by layer."""
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def store(index: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        norm = cast("ConditionalLayer", layer).coda_norm
        states = inputs[0] if norm is None else norm(inputs[0])
        mask = routing.token_mask
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        # Of a shared layer, the first application counts.
        found.setdefault(index, (states[mask], (layer_states(output) - inputs[0])[mask]))

    layers = conditional_layers(model)
    with record_routing(model) as routing, ExitStack() as hooks:
        for index in indices:
            handle = layers[index].register_forward_hook(partial(store, index))
            hooks.callback(handle.remove)
        encoder_states(model, batch)
    return found
