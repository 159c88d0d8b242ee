"""The router: one score per token, and the decision that follows from it."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..ops import (
    SoftTopKMethod,
    prefix_mask,
    score_tokens,
    select_and_weigh,
    select_tokens,
    soft_topk,
    static_positions,
    static_router_logits,
)

RouterKind = Literal["learned", "random", "first", "strided"]
Gate = Literal["weighted", "straight_through"]


@dataclass(frozen=True)
class RoutingDecision:
    """Which tokens of a layer's input its heavy branch processes, and with what weight."""

    selected_indices: Int[Tensor, "batch k"]  # ascending; placeholders where not selected
    selected_weights: Float[Tensor, "batch k"]  # in [0, 1]; 0 where not selected
    is_selected: Bool[Tensor, "batch k"]
    router_logits: Float[Tensor, "batch seq"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many tokens of each row may be selected."""

    top_k: int  # slots per row
    per_row: Int[Tensor, " batch"] | None = None  # slots each row uses; None = all
    token_mask: Bool[Tensor, "batch seq"] | None = None  # None = no padding
    num_prefix_tokens: int = 0  # always selected, inside the budget
    num_suffix_tokens: int = 0  # the same, the last tokens of each row


class Router(nn.Module):
    """Score tokens, choose the best and weigh them.

    The score of a token is `s = u.w` with one vector w per layer, computed in float32. Prefix
    tokens are always chosen, with weight 1; the soft top-k shares the rest of the budget among the
    other tokens.

    Args:
        hidden_size: Width of the states.
        kind: "learned", or a baseline without parameters and with weights of 1.
        epsilon: Temperature of the soft top-k.
        method: Which soft top-k.
        gate: "weighted", or "straight_through": weights of 1 with the gradient of the soft ones.
        seed: Sets the "random" baseline apart from that of other layers.
        device: Where the parameters live.

    Source:
        Score and weights: CoDA, arXiv:2304.04947. Prefix tokens, initialisation and the
        straight-through gate are our choice (docs/decisions/0003).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        kind: RouterKind = "learned",
        epsilon: float = 0.1,
        method: SoftTopKMethod = "exact",
        gate: Gate = "weighted",
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.epsilon, self.method, self.gate, self.seed = (
            kind, epsilon, method, gate, seed,
        )  # fmt: skip
        if kind == "learned":
            self.weight = nn.Parameter(torch.empty(hidden_size, device=device))
            nn.init.normal_(self.weight, std=0.02)

    @property
    def settings(self) -> tuple[object, ...]:
        """What routers must have in common to decide in one call, given the scores."""
        seed = self.seed if self.kind == "random" else None
        return self.kind, self.epsilon, self.method, self.gate, seed

    def forward(
        self,
        states: Float[Tensor, "batch seq hidden"],
        budget: Budget,
        router_logits: Float[Tensor, "batch seq"] | None = None,
    ) -> RoutingDecision:
        """Decide for a batch.

        Args:
            states: What the layer's first norm makes of its input.
            budget: How many tokens may be selected.
            router_logits: The scores of these states, if they are known already.

        Returns:
            The decision. Gradients reach the router through `selected_weights`.
        """
        if router_logits is None:
            router_logits = self.score(states, budget)
        return self.decide(router_logits, budget)

    def decide(self, router_logits: Float[Tensor, "batch seq"], budget: Budget) -> RoutingDecision:
        """Decide for a batch whose scores are known."""
        if budget.token_mask is None and budget.per_row is None:
            return self._decide_alike(router_logits, budget)
        return self._decide_by_row(router_logits, budget)

    def _decide_alike(self, router_logits: Tensor, budget: Budget) -> RoutingDecision:
        """Decide where all rows are full and have one budget, without any mask."""
        first = min(budget.num_prefix_tokens, budget.top_k)
        last = min(budget.num_suffix_tokens, budget.top_k - first)
        indices, weights = self._choose_between(router_logits, budget.top_k, first, last)
        if first + last > 0:
            batch, seq = router_logits.shape
            positions = torch.arange(seq, device=router_logits.device).expand(batch, seq)
            indices = torch.cat([positions[:, :first], indices, positions[:, seq - last :]], dim=1)
            weights = functional.pad(weights, (first, last), value=1.0)
        return RoutingDecision(
            indices, weights, torch.ones_like(indices, dtype=torch.bool), router_logits
        )

    def _choose_between(
        self, router_logits: Tensor, top_k: int, first: int, last: int
    ) -> tuple[Tensor, Tensor]:
        """Return positions and weights of what is chosen between the ends of every row."""
        batch, seq = router_logits.shape
        if self.kind == "first" or self.kind == "strided":
            positions = static_positions(
                self.kind,
                seq,
                top_k=top_k,
                num_prefix_tokens=first,
                num_suffix_tokens=last,
                device=router_logits.device,
            )
            indices = positions.expand(batch, -1)
            return indices, torch.ones_like(indices, dtype=router_logits.dtype)
        others = router_logits[:, first : seq - last]
        if top_k == first + last:
            nothing = others[:, :0]
            return nothing.long(), nothing
        chosen, weights = self._select_and_weigh(others, top_k - first - last)
        return chosen + first, weights

    def _select_and_weigh(self, router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        ranks_once = self.kind == "learned" and self.method == "exact" and self.gate == "weighted"
        if ranks_once and not torch.is_grad_enabled():
            return select_and_weigh(router_logits, top_k=top_k, epsilon=self.epsilon)
        chosen, _ = select_tokens(router_logits, top_k=top_k)
        return chosen, self._weigh(router_logits, chosen, top_k=top_k)

    def _decide_by_row(self, router_logits: Tensor, budget: Budget) -> RoutingDecision:
        """Decide where budgets differ, or padding, and with it the prefix, may stand anywhere."""
        token_mask = budget.token_mask
        if token_mask is None:
            token_mask = torch.ones_like(router_logits, dtype=torch.bool)
        always = prefix_mask(budget.num_prefix_tokens, token_mask)
        if budget.num_suffix_tokens:
            backwards = prefix_mask(budget.num_suffix_tokens, token_mask.flip(-1))
            always = always | backwards.flip(-1)
        indices, is_selected = select_tokens(
            router_logits,
            top_k=budget.top_k,
            budgets=budget.per_row,
            token_mask=token_mask,
            always=always,
        )
        per_row = budget.top_k if budget.per_row is None else budget.per_row
        weights = self._weigh(
            router_logits,
            indices,
            top_k=per_row - always.sum(-1),
            max_top_k=budget.top_k,
            token_mask=token_mask & ~always,
        )
        weights = torch.where(always.gather(-1, indices), 1.0, weights) * is_selected
        return RoutingDecision(indices, weights, is_selected, router_logits)

    def _weigh(
        self,
        router_logits: Tensor,
        indices: Tensor,
        *,
        top_k: int | Tensor,
        max_top_k: int | None = None,
        token_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the routing weights of the chosen tokens."""
        if self.kind != "learned":
            return torch.ones_like(indices, dtype=router_logits.dtype)
        weights = soft_topk(
            router_logits,
            top_k=top_k,
            max_top_k=max_top_k,
            epsilon=self.epsilon,
            method=self.method,
            token_mask=token_mask,
        ).gather(-1, indices)
        if self.gate == "straight_through":
            weights = 1.0 + (weights - weights.detach())
        return weights

    def score(
        self, states: Float[Tensor, "batch seq hidden"], budget: Budget
    ) -> Float[Tensor, "batch seq"]:
        """Return the router's logits, in float32."""
        if self.kind == "learned":
            return score_tokens(states, self.weight)
        (batch, seq), device = states.shape[:2], states.device
        token_mask, budgets = budget.token_mask, budget.per_row
        if token_mask is None:
            # Full rows of one budget are alike, except at random.
            rows = 1 if budgets is None and self.kind != "random" else batch
            token_mask = torch.ones(rows, seq, dtype=torch.bool, device=device)
        if budgets is None:
            budgets = torch.full(token_mask.shape[:1], budget.top_k, device=device)
        # Fresh scores in every training step, the same ones whenever the model is used.
        seed: int | Tensor = self.seed
        if self.training:
            seed = torch.randint(2**31, (), device=device)
        scores = static_router_logits(self.kind, token_mask, budgets=budgets, seed=seed)
        return scores.expand(batch, -1)

    def extra_repr(self) -> str:
        """Describe the settings for `print(model)`."""
        if self.kind != "learned":
            return f"kind={self.kind}"
        return f"epsilon={self.epsilon}, soft_topk={self.method}, gate={self.gate}"
