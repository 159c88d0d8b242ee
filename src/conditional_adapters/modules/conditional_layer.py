"""A frozen layer that computes on k of n tokens: equation 7 of the paper, around any layer.

    Y = X + A(N(X)) + m * (Layer(X_s) - X_s)

A is the adapter and runs on all tokens; N is the layer's own first norm, or nothing in post-norm
layers. The router selects the tokens X_s. The frozen layer runs on them unchanged, with masks and
positions gathered to match, and its update, times the routing weight m, is added back at their
indices.

Read `_coda_run` from top to bottom: that is the method.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import AttachmentError
from ..ops import add_weighted_update_, gather_tokens
from ._subclass import DynamicSubclass
from .adapter import AttentionMode, Branch, LayerAdapter
from .arguments import TokenSelection, expand_arguments, gather_arguments
from .attention import ROUTED_ARGUMENT, RoutedTokens
from .context import (
    ADAPTERS_ARGUMENT,
    CONTEXT_ARGUMENT,
    Budget,
    ForwardScope,
    SequenceContext,
    sequence_context,
)
from .mixed_batch import MixedAdapters
from .router import RoutingDecision
from .spec import ArchitectureSpec


class ConditionalLayer(DynamicSubclass):
    """Mixin that makes a layer conditional; see the module's docstring."""

    coda_spec: ArchitectureSpec  # resolved for the configuration of the model
    coda_argument_names: tuple[str, ...]  # of the frozen forward, after the hidden states
    coda_adapters: nn.ModuleDict
    coda_active: str | None
    coda_scope: ForwardScope
    coda_dense_below: int | None  # number of tokens of a batch, see `set_dense_below`

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Complete the arguments outside gradient checkpointing, which recomputes `forward`."""
        scope = self.coda_scope
        if scope.contexts:
            kwargs.setdefault(CONTEXT_ARGUMENT, scope.contexts[-1])
        if scope.batches:
            kwargs.setdefault(ADAPTERS_ARGUMENT, scope.batches[-1][1])
        is_checkpointed = self.training and getattr(self, "gradient_checkpointing", False)
        if is_checkpointed and torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Reentrant checkpointing drops all gradients if no input requires one, and the output
            # of frozen embeddings does not.
            hidden_states = hidden_states.detach().requires_grad_()
        return super().__call__(hidden_states, *args, **kwargs)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the layer with the active adapter, or with the adapters of a mixed batch.

        Args:
            hidden_states: Layer input, `[batch, seq, hidden]`.
            *args: The layer's other arguments.
            **kwargs: The same by name, a `SequenceContext` under `CONTEXT_ARGUMENT`, and in a mixed
                batch an `AdapterBatch` under `ADAPTERS_ARGUMENT`.

        Returns:
            The output of the layer, with states for all `seq` tokens.
        """
        arguments = {**dict(zip(self.coda_argument_names, args, strict=False)), **kwargs}
        batch = arguments.pop(ADAPTERS_ARGUMENT, None)
        if batch is not None:
            batch.check(hidden_states, f"a {self.coda_original_class.__name__}")
            with self.coda_scope.entered(batch):  # for the norms in this layer
                return self._coda_run(
                    MixedAdapters(self.coda_adapters, batch), hidden_states, arguments
                )
        if self.coda_active is None:
            arguments.pop(CONTEXT_ARGUMENT, None)
            return super().forward(hidden_states, **arguments)
        branch = cast("LayerAdapter", self.coda_adapters[self.coda_active])
        return self._coda_run(branch, hidden_states, arguments)

    def _coda_run(self, branch: Branch, hidden_states: Tensor, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        spec, seq = self.coda_spec, hidden_states.shape[1]
        norm = None if spec.input_norm is None else self.coda_norm
        # How many tokens of each example may the frozen layer process?
        context: SequenceContext | None = arguments.pop(CONTEXT_ARGUMENT, None)
        budget = None
        is_small = self.coda_dense_below is not None and self._coda_is_small(hidden_states)
        if branch.is_routed and not is_small:
            context = self._coda_context(arguments) if context is None else context
            ends = spec.num_prefix_tokens, spec.num_suffix_tokens
            budget = branch.budget(seq, context, ends)
        if spec.prepare_arguments and (budget is not None or spec.prepares_dense_layers):
            spec.prepare_arguments(self, hidden_states, arguments)
        if context is None or budget is None:
            return self._coda_run_dense(branch, norm, hidden_states, arguments)

        # The light branch of all tokens, and the routing decision.
        states = hidden_states
        if branch.attention_mode == "k_to_all" and norm is not None:
            states, norm = norm(hidden_states), None  # keys and values of all tokens as well
        light, routed = branch.adapt_and_route(norm, states, hidden_states, budget)
        decision = cast("RoutingDecision", routed)
        selection = _selection(decision, budget, branch.attention_mode, context)

        # The frozen layer on the selected tokens, and its weighted update.
        selected = gather_tokens(hidden_states, selection.indices)
        gathered = gather_arguments(arguments, spec.gathered, selection, selected.dtype)
        if selection.all_keys or spec.attention_mixin.coda_for_any_keys:
            keys = states if selection.all_keys else None
            tables = arguments.get("position_embeddings")
            gathered[ROUTED_ARGUMENT] = RoutedTokens(selection.indices, seq, keys, tables)
        output = self._coda_process(hidden_states, selected, gathered, selection)
        states = add_weighted_update_(
            light, selection.indices, layer_states(output), selected, decision.selected_weights
        )
        return _with_states(output, states, spec.carried_outputs, arguments)

    def _coda_run_dense(
        self,
        branch: Branch,
        norm: nn.Module | None,
        hidden_states: Tensor,
        arguments: dict[str, Any],
    ) -> Any:  # noqa: ANN401
        """Run the frozen layer on all tokens, and add the adapter's update."""
        arguments = expand_arguments(arguments, self.coda_spec.gathered, hidden_states.shape[0])
        output = super().forward(hidden_states, **arguments)
        light, _ = branch.adapt_and_route(norm, hidden_states, layer_states(output))
        return _with_states(output, light)

    def _coda_process(
        self,
        hidden_states: Tensor,
        selected: Tensor,
        gathered: dict[str, Any],
        selection: TokenSelection,
    ) -> Any:  # noqa: ANN401
        """Run the frozen layer on the selected tokens; a layer of several parts overrides this."""
        return super().forward(selected, **gathered)

    def _coda_context(self, arguments: dict[str, Any]) -> SequenceContext:
        """Read the lengths from the layer's own mask, where the encoder was not called."""
        if not self.coda_spec.passes_context:
            raise AttachmentError(
                f"a {type(self).__name__} was called outside a forward pass of its model, which "
                "alone knows the lengths of the sequences. Call the model. To save memory use its "
                "own activation_checkpointing_enable(): it recomputes layers with the same "
                "arguments, wrappers around whole layers do not."
            )
        return sequence_context(arguments.get("attention_mask"))

    def _coda_is_small(self, hidden_states: Tensor) -> bool:
        """Whether a batch at inference is below the size where routing pays."""
        num_tokens, limit = hidden_states.shape[0] * hidden_states.shape[1], self.coda_dense_below
        return limit is not None and not self.training and num_tokens < limit

    def coda_part(self, adapter_name: str) -> LayerAdapter:
        """Return an adapter of this layer."""
        return cast("LayerAdapter", self.coda_adapters[adapter_name])

    @property
    def coda_norm(self) -> nn.Module | None:
        """The norm whose output router and adapter read; None if they read the hidden states."""
        path = self.coda_spec.input_norm
        return None if path is None else self.get_submodule(cast("str", path))


def _selection(
    decision: RoutingDecision, budget: Budget, mode: AttentionMode, context: SequenceContext
) -> TokenSelection:
    """Return the tokens that are queries, and the keys that they attend to."""
    is_selected = None if budget.per_example is None else decision.is_selected
    is_attended = budget.token_mask if mode == "k_to_all" else is_selected
    if is_attended is not None:
        # An example without any token would attend to nothing, and softmax would return NaN.
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
    carried: Mapping[int, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Any:  # noqa: ANN401
    """Return a layer's output with new hidden states, and arguments at their carried positions."""
    if not isinstance(output, tuple):
        return states
    values = [states, *output[1:]]
    for position, name in (carried or {}).items():
        values[position] = (arguments or {})[name]
    return tuple(values)
