"""What adapters add to one layer: one to all rows of a batch, or several to their own rows.

`LayerAdapter` and `MixedAdapters` answer the same four questions of a conditional layer: how many
tokens, which ones, what the light branch adds, and whom chosen tokens attend to.
"""

from dataclasses import replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import RoutingError
from ..ops import clamp_size, score_tokens, token_budget
from .adapter import ParallelAdapter, adapt_rows
from .light_branch import light_branch
from .router import Budget, Router, RoutingDecision
from .rows import AdapterRows, run_by_group
from .sequence import SequenceContext

AttentionMode = Literal["k_to_k", "k_to_all"]
# Takes what a budget allows; for rows of a batch that process all their tokens.
_EVERY_TOKEN = Router(0, kind="first")


class LayerAdapter(nn.Module):
    """What one adapter adds to one layer.

    Args:
        adapter: The light branch.
        router: Chooses the tokens; None keeps the layer dense.
        reduction_factor: r, the run-time ratio of all tokens to processed ones.
        attention_mode: Whether chosen tokens attend to each other or to all tokens.
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

    @property
    def is_routed(self) -> bool:
        """Whether the layer may process fewer than all tokens."""
        return self.router is not None

    def budget(self, seq: int, context: SequenceContext, ends: tuple[int, int]) -> Budget | None:
        """Tell how many tokens of each row the frozen layer may process.

        Args:
            seq: The padded length.
            context: The lengths of the rows, or their least budgets.
            ends: How many tokens are always routed at the start and at the end of a row.

        Returns:
            The budget; None if it processes all tokens of all rows.
        """
        factor = context.reduction_factor or self.reduction_factor
        return None if factor == 1 else _budget(seq, factor, context, ends)

    def route(self, states: Float[Tensor, "batch seq hidden"], budget: Budget) -> RoutingDecision:
        """Choose the tokens."""
        decision: RoutingDecision = cast("Router", self.router)(states, budget)
        return decision

    def in_one_pass(
        self,
        norm: nn.Module | None,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
        budget: Budget | None = None,
    ) -> tuple[Tensor, RoutingDecision | None] | None:
        """Norm, adapt and route with one pass over the states, where a kernel can do that.

        Args:
            norm: The layer's own first norm, if router and adapter read what it gives.
            states: The layer's input.
            residual: What the light branch is added to. Not changed.
            budget: How many tokens may be chosen; None chooses none.

        Returns:
            What `adapt` and `route` return for the normalised states; None where it has to be done
            part by part.
        """
        router = None if budget is None else self.router
        weight = router.weight if router is not None and router.kind == "learned" else None
        outputs = light_branch(self.adapter, norm, states, residual, weight)
        if outputs is None:
            return None
        updated, scores = outputs
        if router is None:
            return updated, None
        return updated, router(states, budget, scores if weight is not None else None)

    def adapt(
        self,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
    ) -> Float[Tensor, "batch seq hidden"]:
        """Add the light branch to `residual`."""
        updated: Tensor = self.adapter(states, residual)
        return updated


class MixedAdapters:
    """What the adapters of a batch add to one layer, each to its own rows; see `LayerAdapter`.

    Adapters of one shape are computed together, with the weights of each row gathered; what cannot
    be, group by group. Rows that process all their tokens have a budget of their length, so the
    frozen layer still runs once, with as many slots as the row that needs most.

    Args:
        adapters: The adapters of the layer, by name.
        rows: Whose row is whose. A name that the layer does not have adds nothing to it.
    """

    def __init__(self, adapters: nn.ModuleDict, rows: AdapterRows) -> None:
        self.rows = rows
        self.parts = {
            name: None
            if name is None or name not in adapters
            else cast("LayerAdapter", adapters[name])
            for name in rows.names
        }
        overrides = rows.factors or (None,) * len(rows.names)
        self.factors = {
            name: 1.0 if part is None or part.router is None else override or part.reduction_factor
            for (name, part), override in zip(self.parts.items(), overrides, strict=True)
        }

    @property
    def is_routed(self) -> bool:
        """Whether the layer may process fewer than all tokens of any row."""
        return any(factor != 1 for factor in self.factors.values())

    @property
    def attention_mode(self) -> AttentionMode:
        """The attention mode of the adapters that choose tokens."""
        modes = {p.attention_mode for p in self.parts.values() if p is not None and p.is_routed}
        if len(modes) > 1:
            raise RoutingError(
                f"adapters with attention modes {' and '.join(sorted(modes))} cannot share a "
                "batch. Put rows of one mode into a batch."
            )
        return modes.pop() if modes else "k_to_k"

    def budget(self, seq: int, context: SequenceContext, ends: tuple[int, int]) -> Budget | None:
        """Tell how many tokens of each row the frozen layer may process."""
        factors = list(self.factors.values())
        if not self.is_routed:
            return None
        if len(set(factors)) == 1:
            return _budget(seq, factors[0], context, ends)
        device, minimum = self.rows.places.device, max(sum(ends), 1)
        # One by one: a GPU is waited for where a list is copied to it.
        scalars = [torch.full((), x, dtype=torch.float64, device=device) for x in factors]
        factor_of_row = torch.stack(scalars)[self.rows.places]
        lengths = context.lengths
        if lengths is None:
            lengths = torch.full((len(self.rows.places),), seq, device=device)
        # A bound: the longest row need not be the one with the smallest factor.
        top_k = _slots(context.longest, min(factors), minimum, seq)
        per_row = token_budget(lengths, factor_of_row, minimum=minimum)
        if context.floors is not None:
            top_k = _floored_slots(top_k, context, seq)
            per_row = torch.maximum(per_row, context.floors)
        return Budget(
            top_k=top_k,
            per_row=per_row,
            token_mask=context.token_mask,
            num_prefix_tokens=ends[0],
            num_suffix_tokens=ends[1],
        )

    def route(self, states: Float[Tensor, "batch seq hidden"], budget: Budget) -> RoutingDecision:
        """Choose the tokens of each row as its own router does."""

        def settings(name: str | None) -> tuple[object, ...] | None:
            router = self._router(name)
            return None if router is None else router.settings

        def decide(
            part: AdapterRows,
            states: Float[Tensor, "rows seq hidden"],
            per_row: Int[Tensor, " rows"] | None,
            token_mask: Bool[Tensor, "rows seq"] | None,
        ) -> tuple[Tensor, ...]:
            own = replace(budget, per_row=per_row, token_mask=token_mask)
            routers = [self._router(name) for name in part.names]
            router = routers[0] or _EVERY_TOKEN
            if len(routers) > 1 and router.kind == "learned":
                weights = [cast("Router", router).weight for router in routers]
                decision = router.decide(
                    score_tokens(states, part.spread(weights).unsqueeze(1)), own
                )
            else:
                decision = router(states, own)
            return (
                decision.selected_indices,
                decision.selected_weights,
                decision.is_selected,
                decision.router_logits,
            )

        tensors = (states, budget.per_row, budget.token_mask)
        return RoutingDecision(*run_by_group(self.rows, settings, decide, *tensors))

    def in_one_pass(self, *_: object) -> None:
        """Tell that the rows' own adapters are computed part by part."""
        return None

    def adapt(
        self,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
    ) -> Float[Tensor, "batch seq hidden"]:
        """Add to each row of `residual` the light branch of its adapter, if it has one."""

        def shape(name: str | None) -> tuple[object, ...] | None:
            part = self.parts[name]
            return None if part is None else (part.adapter.activation, part.adapter.down.shape)

        def adapt(part: AdapterRows, states: Tensor, residual: Tensor) -> Tensor:
            owners = [self.parts[name] for name in part.names]
            adapters = [owner.adapter for owner in owners if owner is not None]
            return adapt_rows(adapters, part, states, residual) if adapters else residual

        updated: Tensor = run_by_group(self.rows, shape, adapt, states, residual)
        return updated

    def _router(self, name: str | None) -> Router | None:
        """Return the router of an adapter; None if it processes every token."""
        part = self.parts[name]
        return None if part is None or self.factors[name] == 1 else part.router


def _budget(seq: int, factor: float, context: SequenceContext, ends: tuple[int, int]) -> Budget:
    """Turn lengths or floors into slots: as many as one row needs, fewer for those below it."""
    minimum = max(sum(ends), 1)
    top_k = _slots(context.longest, factor, minimum, seq)
    per_row = None
    if context.lengths is not None:
        shortest = context.shortest
        if shortest is None or token_budget(shortest, factor, minimum=minimum) < top_k:
            per_row = token_budget(context.lengths, factor, minimum=minimum)
    elif context.floors is not None:
        least, top_k = top_k, _floored_slots(top_k, context, seq)
        lowest = context.lowest_floor
        if lowest is None or max(least, lowest) < top_k:
            per_row = context.floors.clamp_min(least)
    return Budget(
        top_k=top_k,
        per_row=per_row,
        token_mask=context.token_mask,
        num_prefix_tokens=ends[0],
        num_suffix_tokens=ends[1],
    )


def _slots(longest: int | None, factor: float, minimum: int, seq: int) -> int:
    """Return the slots of the longest row; of a full one where no length is known."""
    length = seq if longest is None else longest
    slots = clamp_size(token_budget(length, factor, minimum=minimum), 1, seq)
    # A single slot is a number even while tracing: attention asks whether there are several.
    return 1 if slots == 1 else slots


def _floored_slots(slots: int, context: SequenceContext, seq: int) -> int:
    """Return the slots of the row with the highest floor; all while tracing hides which it is."""
    return seq if context.highest_floor is None else max(slots, context.highest_floor)
