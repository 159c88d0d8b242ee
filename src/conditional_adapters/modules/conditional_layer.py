"""A frozen layer that computes on k of n tokens: equation 7 of the paper around any layer.

    Y = X + A(N(X)) + m * (Layer(X_s) - X_s)

A is the light adapter and runs on all tokens; N is the layer's own first norm, or nothing. The
frozen layer runs on the chosen tokens X_s as it is, with masks and positions gathered to match,
and its update, times the routing weight m, is added back to their places.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..ops import gather_pairs, gather_tokens, scatter_add_tokens_, token_budget
from ._subclass import DynamicSubclass
from .adapter import ParallelAdapter
from .router import Budget, Router, RoutingDecision
from .sequence import CONTEXT_ARGUMENT, SequenceContext, sequence_context


class TokenAxis(Enum):
    """Where an argument of a layer has its token axis."""

    TOKEN = "token"  # [batch or 1, seq, ...]: rotary tables, position ids
    PAIR = "pair"  # [batch or 1, heads or 1, seq, seq]: position biases
    PAIR_MASK = "pair_mask"  # the same, as an attention mask with a structure of its own
    PADDING_MASK = "padding_mask"  # the same, hiding nothing but padding


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How to call a frozen layer on some of its tokens.

    Attributes:
        argument_names: Parameters of the layer's forward after the hidden states, in order.
        gathered: Which of them have a token axis, and where.
        input_norm: The norm that feeds router and adapter, relative to the layer; None: the states
            themselves (post-norm layers).
        num_prefix_tokens: Tokens at the start of each sequence that are always routed.
        carried_outputs: Positions in the layer's output tuple that must hold an argument as it is
            for all tokens, by the argument's name.
        prepare_arguments: Completes the arguments before they are gathered.
    """

    argument_names: tuple[str, ...]
    gathered: Mapping[str, TokenAxis]
    input_norm: str | None = None
    num_prefix_tokens: int = 0
    carried_outputs: Mapping[int, str] = field(default_factory=dict)
    prepare_arguments: Callable[[nn.Module, Tensor, dict[str, Any]], None] | None = None


class LayerAdapter(nn.Module):
    """What one adapter adds to one layer.

    Args:
        adapter: The light branch.
        router: Chooses the tokens; None keeps the layer dense.
        reduction_factor: r, the run-time ratio of all tokens to processed ones.
    """

    def __init__(
        self, adapter: ParallelAdapter, router: Router | None, reduction_factor: float
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.router = router
        self.reduction_factor = reduction_factor


class ConditionalLayer(DynamicSubclass):
    """Mixin that makes a layer conditional; see the module's docstring."""

    coda_plan: LayerPlan
    coda_adapters: nn.ModuleDict
    coda_active: str | None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the layer as the active adapter says.

        Args:
            hidden_states: Layer input, `[batch, seq, hidden]`.
            *args: The layer's other arguments.
            **kwargs: The same by name, and a `SequenceContext` under `CONTEXT_ARGUMENT`.

        Returns:
            What the layer returns, with states for all `seq` tokens.
        """
        arguments = {**dict(zip(self.coda_plan.argument_names, args, strict=False)), **kwargs}
        context = arguments.pop(CONTEXT_ARGUMENT, None)
        if self.coda_active is None:
            return super().forward(hidden_states, **arguments)
        parts = self.coda_part(self.coda_active)
        if context is None:
            context = sequence_context(arguments.get("attention_mask"))
        normalised = self._coda_normalise(hidden_states)
        factor = context.reduction_factor or parts.reduction_factor
        if parts.router is None or factor == 1:
            output = super().forward(hidden_states, **arguments)
            return _with_states(output, parts.adapter(normalised, _states(output)))

        if self.coda_plan.prepare_arguments is not None:
            self.coda_plan.prepare_arguments(self, hidden_states, arguments)
        budget = _budget(hidden_states.shape[1], factor, context, self.coda_plan)
        decision: RoutingDecision = parts.router(normalised, budget)
        indices = decision.selected_indices
        chosen = gather_tokens(hidden_states, indices)
        gathered = _gather_arguments(arguments, self.coda_plan, decision, budget, context, chosen)
        output = super().forward(chosen, **gathered)
        weights = decision.selected_weights.to(chosen.dtype).unsqueeze(-1)
        update = (_states(output) - chosen) * weights
        light = parts.adapter(normalised, hidden_states)
        states = scatter_add_tokens_(light, indices, update)
        carried = {i: arguments[name] for i, name in self.coda_plan.carried_outputs.items()}
        return _with_states(output, states, carried)

    def coda_part(self, adapter_name: str) -> LayerAdapter:
        """Return what an adapter adds to this layer."""
        return cast("LayerAdapter", self.coda_adapters[adapter_name])

    def _coda_normalise(self, hidden_states: Tensor) -> Tensor:
        name = self.coda_plan.input_norm
        return hidden_states if name is None else self.get_submodule(name)(hidden_states)


def _budget(seq: int, factor: float, context: SequenceContext, plan: LayerPlan) -> Budget:
    """Turn lengths into slots: k from the longest row, fewer for shorter ones."""
    prefix = plan.num_prefix_tokens
    longest = seq if context.longest is None else context.longest
    top_k = max(token_budget(longest, factor, minimum=max(prefix, 1)), 1)
    per_row = None
    if context.lengths is not None:
        shortest = context.shortest
        if shortest is None or token_budget(shortest, factor, minimum=max(prefix, 1)) < top_k:
            per_row = token_budget(context.lengths, factor, minimum=max(prefix, 1))
    return Budget(
        top_k=top_k, per_row=per_row, token_mask=context.token_mask, num_prefix_tokens=prefix
    )


def _gather_arguments(
    arguments: dict[str, Any],
    plan: LayerPlan,
    decision: RoutingDecision,
    budget: Budget,
    context: SequenceContext,
    chosen: Tensor,
) -> dict[str, Any]:
    """Reduce every argument with a token axis to the chosen tokens."""
    indices = decision.selected_indices
    is_attended = None
    if budget.per_row is not None:
        # A row without any token would attend to nothing, which softmax answers with NaN.
        has_tokens = decision.is_selected.any(-1, keepdim=True)
        is_attended = decision.is_selected | ~has_tokens
    gathered = dict(arguments)
    for name, axis in plan.gathered.items():
        value = arguments.get(name)
        if axis is TokenAxis.TOKEN and value is not None:
            gathered[name] = _gather_nested(value, indices)
        elif axis is TokenAxis.PAIR and value is not None:
            gathered[name] = gather_pairs(value, indices)
        elif axis is TokenAxis.PAIR_MASK or axis is TokenAxis.PADDING_MASK:
            hides_padding_only = axis is TokenAxis.PADDING_MASK and context.is_padding_only
            gathered[name] = _gather_mask(value, indices, is_attended, hides_padding_only, chosen)
    return gathered


def _gather_nested(value: Any, indices: Tensor) -> Any:  # noqa: ANN401
    """Gather a tensor, or each tensor of a tuple such as (cos, sin)."""
    if isinstance(value, tuple):
        return tuple(_gather_nested(part, indices) for part in value)
    return gather_tokens(value, indices)


def _gather_mask(
    mask: Tensor | None,
    indices: Tensor,
    is_attended: Tensor | None,
    hides_padding_only: bool,
    chosen: Tensor,
) -> Tensor | None:
    """Return the attention mask among the chosen tokens, or None where nothing is hidden.

    The form of the mask stays what the attention implementation asked for: boolean (True =
    attend), additive, or `[batch, seq]`. Where there was none and slots must be hidden, the
    additive form serves, which eager and sdpa attention both take.
    """
    if mask is not None and mask.dim() == 2:
        flat = gather_tokens(mask, indices)
        return flat if is_attended is None else flat * is_attended
    if mask is None or hides_padding_only:
        if is_attended is None:
            return None
        pairs = is_attended[:, None, None, :]
        if mask is not None and mask.dtype == torch.bool:
            return pairs
        dtype = chosen.dtype if mask is None else mask.dtype
        return torch.zeros_like(pairs, dtype=dtype).masked_fill(~pairs, torch.finfo(dtype).min)
    mask = gather_pairs(mask, indices)
    if is_attended is None:
        return mask
    hidden = ~is_attended[:, None, None, :]
    return mask.masked_fill(
        hidden, False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    )


def _states(output: Any) -> Tensor:  # noqa: ANN401
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
