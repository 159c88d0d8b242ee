"""The adapter of a layer: a bottleneck that all tokens pass, and a router that selects tokens."""

from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..ops import ACTIVATIONS, Norm, light_branch
from ._subclass import DynamicSubclass
from .context import Budget, SequenceContext
from .router import Router, RoutingDecision
from .switchable import SwitchableModule

AttentionMode = Literal["k_to_k", "k_to_all"]

# Norms of transformers that divide by the root mean square, round, and multiply by the weight.
# Others add 1 to the weight or round elsewhere.
_ROOT_MEAN_SQUARE = {
    "T5LayerNorm",
    "MT5LayerNorm",
    "UMT5LayerNorm",
    "Pix2StructLayerNorm",
    "EuroBertRMSNorm",
}


class ParallelAdapter(nn.Module):
    """A two-layer bottleneck beside a frozen layer: `A(U) = act(U W_down) W_up`.

    The up-projection starts at zero, so a fresh adapter changes nothing.

    Args:
        hidden_size: Width of the states.
        adapter_dim: Width of the bottleneck.
        activation: A key of `ops.ACTIVATIONS`.
        dtype: Type of the parameters. Computation follows the states.
        device: Device of the parameters.

    Source:
        He et al., arXiv:2110.04366 (parallel adapter); the zero start is our choice.
    """

    def __init__(
        self,
        hidden_size: int,
        adapter_dim: int,
        *,
        activation: str = "relu",
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down = nn.Parameter(torch.empty(adapter_dim, hidden_size, dtype=dtype, device=device))
        self.up = nn.Parameter(torch.zeros(hidden_size, adapter_dim, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    @property
    def has_hooks(self) -> bool:
        """Whether the module has to be called, because hooks read its inputs or outputs."""
        return _is_hooked(self)

    def forward(
        self,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
    ) -> Float[Tensor, "batch seq hidden"]:
        """Add the adapter's update of each token to `residual`.

        Args:
            states: Input of the adapter.
            residual: Input of the sum. Not changed.

        Returns:
            `residual + A(states)`, a new tensor in the dtype of `residual`.
        """
        inner = ACTIVATIONS[self.activation](functional.linear(states, self.down.to(states.dtype)))
        up = self.up.to(states.dtype)
        # One pass over memory instead of two. Autocast would round the residual stream.
        if inner.dtype == residual.dtype and not torch.is_autocast_enabled(states.device.type):
            tokens = torch.addmm(residual.flatten(0, -2), inner.flatten(0, -2), up.t())
            return tokens.view_as(residual)
        return (residual + functional.linear(inner, up)).to(residual.dtype)

    def extra_repr(self) -> str:
        """Describe the sizes for `print(model)`."""
        dim, hidden = self.down.shape
        return f"hidden_size={hidden}, adapter_dim={dim}, activation={self.activation}"


@runtime_checkable
class Branch(Protocol):
    """The adapters of a layer in one forward pass: one for all examples, or one for each."""

    @property
    def is_routed(self) -> bool:
        """Whether the layer may process fewer than all tokens."""

    @property
    def attention_mode(self) -> AttentionMode:
        """Whether selected tokens attend to each other or to all tokens."""

    def budget(self, seq: int, context: SequenceContext, ends: tuple[int, int]) -> Budget | None:
        """Return how many tokens of each example the frozen layer may process.

        Args:
            seq: The padded length.
            context: The lengths of the examples, or their minimum budgets.
            ends: Number of tokens that are always selected at the start and at the end.

        Returns:
            The budget; None if the layer processes all tokens of all examples.
        """

    def adapt_and_route(
        self,
        norm: nn.Module | None,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
        budget: Budget | None = None,
    ) -> tuple[Float[Tensor, "batch seq hidden"], RoutingDecision | None]:
        """Compute the light branch, and select tokens.

        Args:
            norm: The layer's own first norm, if router and adapter read its output.
            states: Input of the layer.
            residual: What the adapter's update is added to. Not changed.
            budget: How many tokens may be selected; None selects none.

        Returns:
            `residual + A(N(states))`, and the decision, if there is a budget.
        """


class LayerAdapter(nn.Module):
    """One adapter in one layer; the `Branch` of a forward pass in which it is active.

    Args:
        adapter: The bottleneck.
        router: Selects the tokens; None keeps the layer dense.
        reduction_factor: r, the run-time ratio of all tokens to processed ones.
        attention_mode: Whether selected tokens attend to each other or to all tokens.
    """

    def __init__(
        self,
        adapter: ParallelAdapter,
        router: Router | None,
        reduction_factor: float,
        attention_mode: AttentionMode = "k_to_k",
    ) -> None:
        super().__init__()
        self.attention_mode = attention_mode
        self.adapter = adapter
        self.router = router
        self.reduction_factor = reduction_factor
        self.is_routed = router is not None

    def budget(self, seq: int, context: SequenceContext, ends: tuple[int, int]) -> Budget | None:
        """Return how many tokens of each example the frozen layer may process; see `Branch`."""
        factor = context.reduction_factor or self.reduction_factor
        return None if factor == 1 else context.budget(seq, factor, ends)

    def adapt_and_route(
        self,
        norm: nn.Module | None,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
        budget: Budget | None = None,
    ) -> tuple[Float[Tensor, "batch seq hidden"], RoutingDecision | None]:
        """Compute the light branch, and select tokens; see `Branch`."""
        router = None if budget is None else self.router
        updated, scores = light_branch(
            states,
            residual,
            self.adapter,
            norm=None if norm is None else describe_norm(norm),
            router_weight=None if router is None or router.kind != "learned" else router.weight,
        )
        return updated, None if router is None else router(states, cast("Budget", budget), scores)


def describe_norm(norm: nn.Module) -> Norm | None:
    """Describe a norm: of copies, the active one; no formula where hooks have to be called."""
    if isinstance(norm, nn.Identity):
        return None
    module = norm.coda_computing() if isinstance(norm, SwitchableModule) else norm
    kind = module.coda_original_class if isinstance(module, DynamicSubclass) else type(module)
    if _is_hooked(norm) or _is_hooked(module):
        return Norm(norm)
    if kind is nn.LayerNorm:
        layer = cast("nn.LayerNorm", module)
        if len(layer.normalized_shape) == 1 and layer.weight is not None:
            return Norm(norm, "layer", layer.weight, layer.bias, layer.eps)
    elif kind.__module__.startswith("transformers.") and kind.__name__ in _ROOT_MEAN_SQUARE:
        weight, epsilon = cast("Tensor", module.weight), cast("float", module.variance_epsilon)
        return Norm(norm, "rms", weight, None, epsilon)
    return Norm(norm)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
