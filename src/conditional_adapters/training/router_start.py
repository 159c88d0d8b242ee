"""Where routers start: at tokens whose update in the frozen layers is hard to predict.

The light branch of a skipped token has to stand in for the frozen layers. Where a linear map of the
token's own state already predicts what the layers would add to it (silence, an empty background,
punctuation), a small adapter can do that; where it does not, the token needs the layers. So the
salience of a token is

    a(token) = mean over layers of log |U - linear prediction of U from N|^2,

with U the layer's update and N the normalised state that the router reads, and each router starts
at the linear map of its own N that comes nearest to it. All start towards one salience, because
layers that choose different tokens do not read what the others write (docs/decisions/0003).

Two passes over a few batches through the dense layers, sums of products, no gradients.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..analysis import record_routing
from ..analysis._modes import evaluating, keeping_reduction_factor
from ..analysis.routing import RoutingRecord
from ..errors import ConfigError
from ..model.attach import set_reduction_factor
from ..model.attachment import active_adapter, conditional_layers
from ..modules import ConditionalLayer, Router, layer_states
from .objectives import Batch, encoder_states

_RIDGE = 1e-2  # of the mean variance of the states' coordinates; our choice


def start_routers(model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[float, ...]:
    """Point the routers of the active adapter at salient tokens; the module says at which.

    Args:
        model: A conditional model, its active adapter fresh and with learned routers. The weights
            of the routers change, nothing else.
        batches: A few batches of the model's arguments, some thousand tokens in all. Padding does
            not count. They are read twice.

    Returns:
        For each layer with a router, in order, the squared correlation of its scores with the
        salience, from 0 to 1. Scores have a standard deviation of 1.

    Raises:
        ConfigError: If no router is learned, or the batches hold too few tokens.
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
            "no layer of the active adapter has a learned router to start. Attach one with "
            "router_kind='learned', or leave out the salient start."
        )
    updates = {index: _Regression() for index in routers}
    saliences = {index: _Regression() for index in routers}
    with _observing(model, routers) as observed, torch.no_grad():
        for batch in batches:
            encoder_states(model, batch)
            for index, (states, update) in observed.take().items():
                updates[index].add(states, update)
        if min(regression.count for regression in updates.values()) < 2:
            raise ConfigError(
                "the routers' start needs at least 2 tokens (some thousand are sensible). Give "
                "more rows."
            )
        maps = {index: regression.solve() for index, regression in updates.items()}
        for batch in batches:
            encoder_states(model, batch)
            seen = observed.take()
            salience = _salience([maps[index].residual(*seen[index]) for index in seen])
            for index, (states, _) in seen.items():
                saliences[index].add(states, salience)
    explained = []
    for index, router in routers.items():
        fitted = saliences[index].solve()
        weight = fitted.weight.squeeze(-1)
        spread = (weight @ fitted.covariance @ weight).sqrt().clamp_min(1e-12)
        explained.append(fitted.explained)
        with torch.no_grad():
            router.weight.copy_(weight / spread)
    return tuple(explained)


def _salience(residuals: Sequence[Float[Tensor, " tokens"]]) -> Float[Tensor, "tokens 1"]:
    """Return the mean over layers; their scales only shift a logarithm."""
    return torch.stack([r.clamp_min(1e-30).log() for r in residuals]).mean(0).unsqueeze(-1)


@dataclass
class _Fit:
    """A linear map from states to targets, with what it was fitted to."""

    weight: Float[Tensor, "hidden targets"]
    mean: Float[Tensor, " hidden"]
    target_mean: Float[Tensor, " targets"]
    covariance: Float[Tensor, "hidden hidden"]
    explained: float  # share of the targets' variance, 0 to 1

    def residual(
        self, states: Float[Tensor, "tokens hidden"], target: Float[Tensor, "tokens targets"]
    ) -> Float[Tensor, " tokens"]:
        """Return the squared length of what the map leaves of each target."""
        predicted = (states.double() - self.mean) @ self.weight
        return (target.double() - self.target_mean - predicted).square().sum(-1)


class _Regression:
    """Sums of products, from which a ridge regression with an intercept is solved."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(
        self, states: Float[Tensor, "tokens hidden"], target: Float[Tensor, "tokens targets"]
    ) -> None:
        """Take more tokens into account."""
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

    def solve(self) -> _Fit:
        """Return the best linear map, shrunk a little for directions that hardly vary."""
        mean, target_mean = self.sums["states"] / self.count, self.sums["target"] / self.count
        covariance = self.sums["gram"] / self.count - mean.outer(mean)
        cross = self.sums["cross"] / self.count - mean.outer(target_mean)
        variance = self.sums["square"] / self.count - target_mean.square().sum()
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        weight = torch.linalg.solve(covariance + ridge * identity, cross)
        fitted = (weight * (2 * cross - covariance @ weight)).sum()
        explained = float(fitted / variance.clamp_min(1e-30))
        return _Fit(weight, mean, target_mean, covariance, explained)


@dataclass
class _Observed:
    """States and updates of the valid tokens of the latest forward pass, by layer."""

    routing: RoutingRecord
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def store(
        self, index: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: object
    ) -> None:
        """Keep what a layer read and what it changed; of a shared layer, in its first use."""
        norm = cast("ConditionalLayer", layer).coda_norm
        states = inputs[0] if norm is None else norm(inputs[0])
        update = layer_states(output) - inputs[0]
        mask = self.routing.token_mask
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        self.layers.setdefault(index, (states[mask], update[mask]))

    def take(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return what was observed, and forget it."""
        taken, self.layers = self.layers, {}
        return taken


@contextmanager
def _observing(model: PreTrainedModel, layers: dict[int, Router]) -> Iterator[_Observed]:
    """Run every token through every layer, and see what the layers do."""
    with evaluating(model), keeping_reduction_factor(model), record_routing(model) as routing:
        set_reduction_factor(model, 1)
        observed = _Observed(routing)
        every = conditional_layers(model)
        handles = [
            every[index].register_forward_hook(partial(observed.store, index)) for index in layers
        ]
        try:
            yield observed
        finally:
            for handle in handles:
                handle.remove()
