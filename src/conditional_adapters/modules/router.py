"""The router: one score per token, and the routing decision."""

from typing import Literal, NamedTuple

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
from .context import Budget

RouterKind = Literal["learned", "random", "first", "strided"]
Gate = Literal["weighted", "straight_through"]


class RoutingDecision(NamedTuple):
    """The tokens of a layer's input that the frozen layer processes, and their weights."""

    selected_indices: Int[Tensor, "batch k"]  # ascending; placeholders where not selected
    selected_weights: Float[Tensor, "batch k"]  # in [0, 1]; 0 where not selected
    is_selected: Bool[Tensor, "batch k"]
    router_logits: Float[Tensor, "batch seq"]


class Router(nn.Module):
    """Score tokens, select the best and weigh them.

    The score of a token is `s = u.w` with one vector w per layer, computed in float32. Prefix
    tokens are always selected, with weight 1; the soft top-k distributes the rest of the budget
    among the other tokens.

    Args:
        hidden_size: Width of the states.
        kind: "learned", or a baseline without parameters and with weights of 1.
        epsilon: Temperature of the soft top-k.
        method: The soft top-k method.
        gate: "weighted", or "straight_through": weights of 1 with the gradient of the soft ones.
        seed: Of the "random" baseline, different in each layer.
        device: Device of the parameters.

    Source:
        Score and weights: CoDA, arXiv:2304.04947. Prefix tokens, initialisation and the
        straight-through gate are our choice (docs/decisions/0003).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        kind: RouterKind = "learned",
        epsilon: float = 1.0,
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
        """The settings that routers must share to decide in one call, given the scores."""
        seed = self.seed if self.kind == "random" else None
        return self.kind, self.epsilon, self.method, self.gate, seed

    def forward(
        self,
        states: Float[Tensor, "batch seq hidden"],
        budget: Budget,
        router_logits: Float[Tensor, "batch seq"] | None = None,
    ) -> RoutingDecision:
        """Select and weigh the tokens of a batch.

        Args:
            states: Output of the layer's first norm.
            budget: How many tokens may be selected.
            router_logits: The scores of these states, if they are known already.

        Returns:
            The decision. Gradients reach the router through `selected_weights`.
        """
        if router_logits is None:
            router_logits = self.score(states, budget)
        if budget.token_mask is not None or budget.per_example is not None:
            return self._decide_ragged(router_logits, budget)
        # All examples are full and have one budget: no masks.
        batch, seq = router_logits.shape
        first = min(budget.num_prefix_tokens, budget.top_k)
        last = min(budget.num_suffix_tokens, budget.top_k - first)
        indices, weights = self._select_between(router_logits, budget.top_k, first, last)
        if first + last > 0:
            positions = torch.arange(seq, device=router_logits.device).expand(batch, seq)
            indices = torch.cat([positions[:, :first], indices, positions[:, seq - last :]], dim=1)
            weights = functional.pad(weights, (first, last), value=1.0)
        is_selected = torch.ones_like(indices, dtype=torch.bool)
        return RoutingDecision(indices, weights, is_selected, router_logits)

    def _select_between(
        self, router_logits: Tensor, top_k: int, first: int, last: int
    ) -> tuple[Tensor, Tensor]:
        """Return indices and weights of the tokens selected between the ends of every example."""
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
        top_k = top_k - first - last
        if top_k == 0:
            return others[:, :0].long(), others[:, :0]
        ranks_once = self.kind == "learned" and self.method == "exact" and self.gate == "weighted"
        if ranks_once and not torch.is_grad_enabled():
            indices, weights = select_and_weigh(others, top_k=top_k, epsilon=self.epsilon)
        else:
            indices, _ = select_tokens(others, top_k=top_k)
            weights = self._weigh(others, indices, top_k=top_k)
        return indices + first, weights

    def _decide_ragged(self, router_logits: Tensor, budget: Budget) -> RoutingDecision:
        """Decide where budgets differ, or there is padding, on either side."""
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
            budgets=budget.per_example,
            token_mask=token_mask,
            always=always,
        )
        per_example = budget.top_k if budget.per_example is None else budget.per_example
        weights = self._weigh(
            router_logits,
            indices,
            top_k=per_example - always.sum(-1),
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
        """Return the routing weights of the selected tokens."""
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
        token_mask, budgets = budget.token_mask, budget.per_example
        if token_mask is None:
            # Full examples with one budget have the same scores, except random ones.
            num_examples = 1 if budgets is None and self.kind != "random" else batch
            token_mask = torch.ones(num_examples, seq, dtype=torch.bool, device=device)
        if budgets is None:
            budgets = torch.full(token_mask.shape[:1], budget.top_k, device=device)
        # New scores in every training step, the same ones at inference.
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
