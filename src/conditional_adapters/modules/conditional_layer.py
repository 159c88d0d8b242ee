"""A frozen layer that computes on k of n tokens: equation 7 of the paper around any layer.

    Y = X + A(N(X)) + m * (Layer(X_s) - X_s)

A is the light adapter and runs on all tokens; N is the layer's own first norm, or nothing. The
frozen layer runs on the chosen tokens X_s as it is, with masks and positions gathered to match,
and its update, times the routing weight m, is added back to their places.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..ops import add_weighted_update_, gather_tokens
from ._subclass import DynamicSubclass
from .arguments import TokenAxis, TokenSelection, gather_arguments, spread_arguments
from .attention import ROUTED_ARGUMENT, RoutedAttention, RoutedTokens
from .layer_adapter import AttentionMode, LayerAdapter, MixedAdapters
from .router import Budget, RoutingDecision
from .rows import ROWS_ARGUMENT, AdapterRows, RowScope
from .sequence import CONTEXT_ARGUMENT, SequenceContext, sequence_context


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How to call a frozen layer on some of its tokens.

    Attributes:
        argument_names: Parameters of the layer's forward after the hidden states, in order.
        gathered: Which of them have a token axis, and where.
        input_norm: The norm that feeds router and adapter, relative to the layer; None: the states
            themselves (post-norm layers).
        num_prefix_tokens: Tokens at the start of each sequence that are always routed.
        num_suffix_tokens: Tokens at the end of each sequence that are always routed.
        attention: Path of the attention module, relative to the layer.
        attention_mixin: Makes that module look beyond the chosen tokens.
        carried_outputs: Positions in the layer's output tuple that must hold an argument as it is
            for all tokens, by the argument's name.
        prepare_arguments: Completes the arguments before they are gathered.
    """

    argument_names: tuple[str, ...]
    gathered: Mapping[str, TokenAxis]
    input_norm: str | None = None
    num_prefix_tokens: int = 0
    num_suffix_tokens: int = 0
    attention: str | None = None
    attention_mixin: type[RoutedAttention] = RoutedAttention
    carried_outputs: Mapping[int, str] = field(default_factory=dict)
    prepare_arguments: Callable[[nn.Module, Tensor, dict[str, Any]], None] | None = None


class ConditionalLayer(DynamicSubclass):
    """Mixin that makes a layer conditional; see the module's docstring."""

    coda_plan: LayerPlan
    coda_adapters: nn.ModuleDict
    coda_active: str | None
    coda_scope: RowScope
    coda_dense_below: int | None  # tokens of a batch, see `set_dense_below`

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run hooks and `forward`; see there."""
        is_checkpointed = self.training and getattr(self, "gradient_checkpointing", False)
        if is_checkpointed and torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Reentrant checkpointing drops all gradients if no input has one, and what comes from
            # frozen embeddings has none.
            hidden_states = hidden_states.detach().requires_grad_()
        return super().__call__(hidden_states, *args, **kwargs)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the layer as the active adapter says, or the adapters of the rows.

        Args:
            hidden_states: Layer input, `[batch, seq, hidden]`.
            *args: The layer's other arguments.
            **kwargs: The same by name, a `SequenceContext` under `CONTEXT_ARGUMENT`, and
                `AdapterRows` under `ROWS_ARGUMENT` if rows have adapters of their own.

        Returns:
            What the layer returns, with states for all `seq` tokens.
        """
        arguments = {**dict(zip(self.coda_plan.argument_names, args, strict=False)), **kwargs}
        context = arguments.pop(CONTEXT_ARGUMENT, None)
        rows: AdapterRows | None = arguments.pop(ROWS_ARGUMENT, None)
        if rows is not None:
            rows.check(hidden_states, f"a {self.coda_original_class.__name__}")
            mixed = MixedAdapters(self.coda_adapters, rows)
            with self.coda_scope.entered(rows):
                return self._coda_run(mixed, hidden_states, arguments, context)
        if self.coda_active is None:
            return super().forward(hidden_states, **arguments)
        parts = self.coda_part(self.coda_active)
        return self._coda_run(parts, hidden_states, arguments, context)

    def _coda_run(
        self,
        parts: LayerAdapter | MixedAdapters,
        hidden_states: Tensor,
        arguments: dict[str, Any],
        context: SequenceContext | None,
    ) -> Any:  # noqa: ANN401
        self._coda_complete(hidden_states, arguments)
        plan = self.coda_plan
        budget = None
        if parts.is_routed and not self._coda_is_small(hidden_states):
            if context is None:
                context = sequence_context(arguments.get("attention_mask"))
            ends = plan.num_prefix_tokens, plan.num_suffix_tokens
            budget = parts.budget(hidden_states.shape[1], context, ends)
        if context is None or budget is None:
            arguments = spread_arguments(arguments, plan.gathered, hidden_states.shape[0])
            output = super().forward(hidden_states, **arguments)
            kept = layer_states(output)
            at_once = parts.in_one_pass(self._coda_norm, hidden_states, kept)
            if at_once is not None:
                return _with_states(output, at_once[0])
            return _with_states(output, parts.adapt(self.coda_normalise(hidden_states), kept))

        if plan.prepare_arguments is not None:
            plan.prepare_arguments(self, hidden_states, arguments)
        decision, normalised, light = self._coda_route(parts, hidden_states, budget)
        selection = _selection(decision, budget, context, parts.attention_mode)
        chosen = gather_tokens(hidden_states, selection.indices)
        gathered = gather_arguments(arguments, plan.gathered, selection, chosen.dtype)
        if selection.all_keys or plan.attention_mixin.coda_for_any_keys:
            gathered[ROUTED_ARGUMENT] = RoutedTokens(
                selection.indices,
                hidden_states.shape[1],
                normalised if selection.all_keys else None,
                arguments.get("position_embeddings"),
            )
        output = self._coda_process(hidden_states, chosen, gathered, selection)
        if light is None:
            light = parts.adapt(cast("Tensor", normalised), hidden_states)
        states = add_weighted_update_(
            light, selection.indices, layer_states(output), chosen, decision.selected_weights
        )
        carried = {i: arguments[name] for i, name in plan.carried_outputs.items()}
        return _with_states(output, states, carried)

    def _coda_complete(self, hidden_states: Tensor, arguments: dict[str, Any]) -> None:
        """Complete the arguments in place, routed or not; layers that need that override this."""

    def _coda_route(
        self, parts: LayerAdapter | MixedAdapters, hidden_states: Tensor, budget: Budget
    ) -> tuple[RoutingDecision, Tensor | None, Tensor | None]:
        """Return the decision, and either the normalised states or all that is made of them."""
        if parts.attention_mode == "k_to_k":  # otherwise the normalised states of all are keys
            at_once = parts.in_one_pass(self._coda_norm, hidden_states, hidden_states, budget)
            if at_once is not None:
                light, decision = at_once
                return cast("RoutingDecision", decision), None, light
        normalised = self.coda_normalise(hidden_states)
        return parts.route(normalised, budget), normalised, None

    def _coda_process(
        self,
        hidden_states: Tensor,
        chosen: Tensor,
        gathered: dict[str, Any],
        selection: TokenSelection,
    ) -> Any:  # noqa: ANN401
        """Run the frozen layer on the chosen tokens; a layer of several parts overrides this."""
        return super().forward(chosen, **gathered)

    def coda_part(self, adapter_name: str) -> LayerAdapter:
        """Return what an adapter adds to this layer."""
        return cast("LayerAdapter", self.coda_adapters[adapter_name])

    def _coda_is_small(self, hidden_states: Tensor) -> bool:
        """Tell whether a batch in use, not in training, is below the size where routing pays."""
        limit = self.coda_dense_below
        if limit is None or self.training:
            return False
        return hidden_states.shape[0] * hidden_states.shape[1] < limit

    @property
    def _coda_norm(self) -> nn.Module | None:
        name = self.coda_plan.input_norm
        return None if name is None else self.get_submodule(name)

    def coda_normalise(self, hidden_states: Tensor) -> Tensor:
        """Return what router and adapter read: the input after the layer's own first norm."""
        norm = self._coda_norm
        return hidden_states if norm is None else norm(hidden_states)


def _selection(
    decision: RoutingDecision, budget: Budget, context: SequenceContext, mode: AttentionMode
) -> TokenSelection:
    """Tell which tokens are queries and which are keys."""
    is_selected = None if budget.per_row is None else decision.is_selected
    is_attended = budget.token_mask if mode == "k_to_all" else is_selected
    if is_attended is not None:
        # A row without any token would attend to nothing, which softmax answers with NaN.
        is_attended = is_attended | ~is_attended.any(-1, keepdim=True)
    return TokenSelection(
        decision.selected_indices,
        is_selected,
        is_attended,
        all_keys=mode == "k_to_all",
        is_padding_only=context.is_padding_only,
    )


def layer_states(output: Any) -> Tensor:  # noqa: ANN401
    """Return the hidden states among a layer's outputs."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _with_states(
    output: Any,  # noqa: ANN401
    states: Tensor,
    carried: Mapping[int, Any] | None = None,
) -> Any:  # noqa: ANN401
    """Return a layer's output with other hidden states, and what it must carry unchanged."""
    if not isinstance(output, tuple):
        return states
    values = [states, *output[1:]]
    for position, value in (carried or {}).items():
        values[position] = value
    return tuple(values)
