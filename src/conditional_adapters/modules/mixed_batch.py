"""Mixed batches: `model(..., adapter_names=[...])` gives each example its own adapter.

`AdapterNamesHook` takes the names from the arguments of a model. Until the call ends, an
`AdapterBatch` is in the scope of the model. Each conditional layer passes it to itself as an
argument, outside gradient checkpointing, so that a layer which is recomputed gets the same adapters
(docs/decisions/0008). Nothing here runs for calls without `adapter_names`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import AttachmentError, RoutingError
from ..ops import ACTIVATIONS, score_tokens, token_budget
from .adapter import AttentionMode, LayerAdapter, ParallelAdapter
from .context import ADAPTER_NAMES_ARGUMENT, Budget, ForwardScope, SequenceContext
from .router import Router, RoutingDecision

# Selects the first tokens that a budget allows; for examples that process all their tokens.
_EVERY_TOKEN = Router(0, kind="first")


class AdapterBatch(NamedTuple):
    """The adapters of a batch, and the examples of each.

    A named tuple, not a dataclass, because the tools that move arguments between devices know it.
    """

    names: tuple[str | None, ...]  # distinct; None: the pretrained model without an adapter
    examples: tuple[Int[Tensor, " examples"], ...]  # of each name: indices into the batch
    name_indices: Int[Tensor, " batch"]  # of each example: index into `names`
    factors: tuple[float | None, ...] = ()  # override those of the layers (elastic training)

    @staticmethod
    def from_names(
        names: Sequence[str | None],
        *,
        device: torch.device,
        factors: Mapping[str | None, float | None],
    ) -> "AdapterBatch":
        """Group the examples of a batch by adapter, in the order in which names first occur.

        Args:
            names: The adapter of each example.
            device: Device of the model.
            factors: Reduction factors by adapter, where they override those of the layers.

        Returns:
            The groups.
        """
        examples: dict[str | None, list[int]] = {}
        for index, name in enumerate(names):
            examples.setdefault(name, []).append(index)
        order = {name: index for index, name in enumerate(examples)}
        return AdapterBatch(
            tuple(examples),
            tuple(torch.tensor(indices, device=device) for indices in examples.values()),
            torch.tensor([order[name] for name in names], device=device),
            tuple(factors.get(name) for name in examples),
        )

    def check(self, states: Shaped[Tensor, "..."], module: str) -> None:
        """Refuse a tensor whose first axis is not the batch.

        Args:
            states: Input of a module.
            module: The module, with an article.

        Raises:
            RoutingError: If its first axis has another size.
        """
        if states.dim() == 0 or len(states) != len(self.name_indices):
            raise RoutingError(
                f"adapter_names has {len(self.name_indices)} entries, but {module} got a tensor of "
                f"shape {list(states.shape)}. Give one name (or None) for each example of the "
                "batch. If you did, this module has no batch dimension, and adapters that train it "
                "cannot be mixed in one batch: call set_adapter(model, name) and run the examples "
                "of each adapter by themselves."
            )

    def expand(self, values: Sequence[Tensor]) -> Tensor:
        """Stack one value per name, and return `[batch, ...]`: the value of each example."""
        stacked = torch.stack([*values])
        # One example per adapter: the examples are in the order of the names already.
        is_in_order = len(values) == len(self.name_indices)
        return stacked if is_in_order else stacked[self.name_indices]

    def take(self, positions: Sequence[int]) -> "AdapterBatch":
        """Return the batch of some names; its examples are in the order of the names."""
        sizes = [len(self.examples[position]) for position in positions]
        examples = torch.arange(sum(sizes), device=self.name_indices.device).tensor_split(
            list(accumulate(sizes))[:-1]
        )
        return AdapterBatch(
            tuple(self.names[position] for position in positions),
            examples,
            torch.cat([torch.full_like(group, index) for index, group in enumerate(examples)]),
            tuple(self.factors[position] for position in positions) if self.factors else (),
        )

    def map_groups(
        self,
        key: Callable[[str | None], Hashable],
        function: Callable[..., Any],
        *tensors: Tensor | None,
    ) -> Any:  # noqa: ANN401
        """Call a function once for each group of adapters with the same key.

        Args:
            key: What adapters must share to be computed together.
            function: `function(batch, *tensors)` for the examples of one group; returns a tensor
                or a tuple of tensors with these examples.
            *tensors: Its arguments, `[batch, ...]`, or None.

        Returns:
            The results for all examples in their order.
        """
        groups: dict[Hashable, list[int]] = {}
        for position, name in enumerate(self.names):
            groups.setdefault(key(name), []).append(position)
        if len(groups) == 1:
            return function(self, *tensors)
        device = next(tensor.device for tensor in tensors if tensor is not None)
        indices = [
            torch.cat([self.examples[position] for position in positions]).to(device)
            for positions in groups.values()
        ]
        outputs = [
            function(
                self.take(positions),
                *(None if tensor is None else tensor.index_select(0, group) for tensor in tensors),
            )
            for positions, group in zip(groups.values(), indices, strict=True)
        ]
        inverse = torch.cat(indices).argsort()
        if isinstance(outputs[0], Tensor):
            return torch.cat(outputs).index_select(0, inverse)
        return tuple(
            torch.cat(values).index_select(0, inverse) for values in zip(*outputs, strict=True)
        )


class MixedAdapters:
    """The adapters of a batch in one layer, each for its own examples; a `Branch`.

    Adapters of one shape are computed together, with weights gathered for each example; the others
    group by group. Examples that process all their tokens have a budget of their length, so that
    the frozen layer runs once, with as many slots as the largest budget needs.

    Args:
        adapters: The adapters of the layer, by name.
        batch: The adapter of each example. A name that the layer does not have adds nothing.

    Raises:
        RoutingError: If adapters with two attention modes select tokens.
    """

    def __init__(self, adapters: nn.ModuleDict, batch: AdapterBatch) -> None:
        self.batch = batch
        self.adapters = {
            name: None
            if name is None or name not in adapters
            else cast("LayerAdapter", adapters[name])
            for name in batch.names
        }
        overrides = batch.factors or (None,) * len(batch.names)
        self.factors = {
            name: 1.0
            if adapter is None or adapter.router is None
            else override or adapter.reduction_factor
            for (name, adapter), override in zip(self.adapters.items(), overrides, strict=True)
        }
        routed = [
            a for name, a in self.adapters.items() if a is not None and self.factors[name] > 1
        ]
        modes = {adapter.attention_mode for adapter in routed}
        if len(modes) > 1:
            raise RoutingError(
                f"adapters with attention modes {' and '.join(sorted(modes))} cannot share a "
                "batch. Put examples of one mode into a batch."
            )
        self.is_routed = bool(modes)
        self.attention_mode: AttentionMode = modes.pop() if modes else "k_to_k"

    def budget(self, seq: int, context: SequenceContext, ends: tuple[int, int]) -> Budget | None:
        """Return the budget of each example; see `Branch`."""
        factors = list(self.factors.values())
        if not self.is_routed:
            return None
        if len(set(factors)) == 1:
            return context.budget(seq, factors[0], ends)
        indices, minimum = self.batch.name_indices, max(sum(ends), 1)
        # One scalar after the other: copying a list to a GPU would synchronise.
        scalars = [torch.full((), x, dtype=torch.float64, device=indices.device) for x in factors]
        lengths = context.lengths
        if lengths is None:
            lengths = torch.full((len(indices),), seq, device=indices.device)
        # An upper bound: the longest example need not have the smallest factor.
        top_k = context.num_slots(seq, min(factors), minimum)
        per_example = token_budget(lengths, torch.stack(scalars)[indices], minimum=minimum)
        if context.minimums is not None:
            top_k = context.raise_slots(top_k, seq)
            per_example = torch.maximum(per_example, context.minimums)
        return Budget(
            top_k=top_k,
            per_example=per_example,
            token_mask=context.token_mask,
            num_prefix_tokens=ends[0],
            num_suffix_tokens=ends[1],
        )

    def adapt_and_route(
        self,
        norm: nn.Module | None,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
        budget: Budget | None = None,
    ) -> tuple[Float[Tensor, "batch seq hidden"], RoutingDecision | None]:
        """Adapt and route each example as its own adapter does; see `Branch`."""
        normalised = states if norm is None else norm(states)
        decision = None if budget is None else self._route(normalised, budget)
        return self._adapt(normalised, residual), decision

    def _route(self, states: Tensor, budget: Budget) -> RoutingDecision:
        def settings(name: str | None) -> tuple[object, ...] | None:
            router = self._router(name)
            return None if router is None else router.settings

        def decide(
            batch: AdapterBatch,
            states: Tensor,
            per_example: Tensor | None,
            token_mask: Tensor | None,
        ) -> tuple[Tensor, ...]:
            own = replace(budget, per_example=per_example, token_mask=token_mask)
            routers = [self._router(name) for name in batch.names]
            router, scores = routers[0] or _EVERY_TOKEN, None
            if len(routers) > 1 and router.kind == "learned":
                weights = [cast("Router", router).weight for router in routers]
                scores = score_tokens(states, batch.expand(weights).unsqueeze(1))
            return tuple(router(states, own, scores))

        tensors = (states, budget.per_example, budget.token_mask)
        return RoutingDecision(*self.batch.map_groups(settings, decide, *tensors))

    def _adapt(self, states: Tensor, residual: Tensor) -> Tensor:
        def shape(name: str | None) -> tuple[object, ...] | None:
            owner = self.adapters[name]
            if owner is None:
                return None
            if owner.adapter.has_hooks:
                return (name,)
            return owner.adapter.activation, owner.adapter.down.shape

        def adapt(batch: AdapterBatch, states: Tensor, residual: Tensor) -> Tensor:
            owners = [self.adapters[name] for name in batch.names]
            adapters = [owner.adapter for owner in owners if owner is not None]
            return adapt_examples(adapters, batch, states, residual) if adapters else residual

        updated: Tensor = self.batch.map_groups(shape, adapt, states, residual)
        return updated

    def _router(self, name: str | None) -> Router | None:
        """Return the router of an adapter; None if it processes every token."""
        adapter = self.adapters[name]
        return None if adapter is None or self.factors[name] == 1 else adapter.router


def adapt_examples(
    adapters: Sequence[ParallelAdapter],
    batch: AdapterBatch,
    states: Float[Tensor, "batch seq hidden"],
    residual: Float[Tensor, "batch seq hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """Add the update of its own adapter to each example of `residual`.

    Args:
        adapters: One for each name of `batch`, of one width and activation.
        batch: The adapter of each example.
        states: Input of the adapters.
        residual: Input of the sum. Not changed.

    Returns:
        The output of each adapter's forward for its examples.
    """
    if len(adapters) == 1:
        updated: Tensor = adapters[0](states, residual)
        return updated
    down = batch.expand([adapter.down for adapter in adapters]).to(states.dtype)
    up = batch.expand([adapter.up for adapter in adapters]).to(states.dtype)
    inner = ACTIVATIONS[adapters[0].activation](torch.bmm(states, down.mT))
    if inner.dtype == residual.dtype and not torch.is_autocast_enabled(states.device.type):
        return torch.baddbmm(residual, inner, up.mT)
    return (residual + torch.bmm(inner, up.mT)).to(residual.dtype)


@runtime_checkable
class _Config(Protocol):
    @property
    def elastic_factors(self) -> tuple[float, ...]: ...


class AdapterNamesHook:
    """Forward pre-hook of models: take `adapter_names` from the arguments.

    Args:
        scope: The scope of the model.
        configs: The configurations of its adapters, by name.
    """

    def __init__(self, scope: ForwardScope, configs: Mapping[str, _Config]) -> None:
        self.scope, self.configs = scope, configs
        self.models: list[nn.Module] = []
        self.handles: list[RemovableHandle] = []  # of the hooks that end a call
        self.has_ends = False  # whether there are handles, which compiled code cannot read

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Begin a call, if it names adapters."""
        if ADAPTER_NAMES_ARGUMENT not in kwargs:
            return args, kwargs
        others = {name: value for name, value in kwargs.items() if name != ADAPTER_NAMES_ARGUMENT}
        names = kwargs[ADAPTER_NAMES_ARGUMENT]
        if names is None:
            return args, others
        self._check(names)
        if not self.has_ends:
            self._register_ends()
        batch = AdapterBatch.from_names(
            names,
            device=next(model.parameters()).device,
            factors={name: self._sample(name) for name in names} if model.training else {},
        )
        self.scope.batches.append((model, batch))
        return args, others

    def remove(self) -> None:
        """Remove the hooks that end a call."""
        while self.handles:
            self.handles.pop().remove()
        self.has_ends = False

    def _register_ends(self) -> None:
        if torch.compiler.is_compiling():
            raise AttachmentError(
                "the first call with adapter_names registers hooks, which cannot be compiled. Call "
                "the model once with adapter_names before compiling it."
            )
        self.handles = [
            model.register_forward_hook(self._end, always_call=True) for model in self.models
        ]
        self.has_ends = True

    def _end(self, model: nn.Module, args: object, output: object) -> None:
        """End the innermost call, if this model began it."""
        if self.scope.batches and self.scope.batches[-1][0] is model:
            self.scope.batches.pop()

    def _check(self, names: object) -> None:
        if not isinstance(names, list | tuple) or not names:
            raise RoutingError(
                "adapter_names must be a list with the name of an adapter, or None, for each "
                f"example of the batch, got {names!r}. For one adapter call "
                "set_adapter(model, name)."
            )
        for name in names:
            if name is not None and name not in self.configs:
                raise AttachmentError(
                    f"the model has no adapter {name!r}. It has {list(self.configs)}; None stands "
                    "for the pretrained model without an adapter."
                )

    def _sample(self, name: str | None) -> float | None:
        """Draw a reduction factor for an elastic adapter in training."""
        elastic = () if name is None else self.configs[name].elastic_factors
        return elastic[int(torch.randint(len(elastic), ()))] if elastic else None
