import pytest
import torch

from conditional_adapters.modules.adapter import ACTIVATIONS, ParallelAdapter
from conditional_adapters.modules.context import Budget
from conditional_adapters.modules.router import Router
from conditional_adapters.ops import soft_topk

BATCH, SEQ, HIDDEN = 3, 12, 8


def router_with(**settings: object) -> Router:
    router = Router(HIDDEN, **settings)
    if router.kind == "learned":
        torch.nn.init.normal_(router.weight)
    return router.eval()


def test_weights_are_the_soft_top_k_of_the_logits_at_the_chosen_tokens() -> None:
    states = torch.randn(BATCH, SEQ, HIDDEN)
    router = router_with(epsilon=0.5)
    decision = router(states, Budget(top_k=4))
    expected = soft_topk(states @ router.weight, top_k=4, epsilon=0.5)
    torch.testing.assert_close(decision.router_logits, states @ router.weight)
    for row in range(BATCH):
        chosen = decision.router_logits[row].topk(4).indices.sort().values
        assert torch.equal(decision.selected_indices[row], chosen)
        torch.testing.assert_close(decision.selected_weights[row], expected[row, chosen])


def test_prefix_tokens_have_weight_one_and_the_rest_share_what_is_left() -> None:
    states = torch.randn(BATCH, SEQ, HIDDEN)
    router = router_with(epsilon=1.0)
    decision = router(states, Budget(top_k=5, num_prefix_tokens=2))
    assert (decision.selected_indices[:, :2] == torch.tensor([0, 1])).all()
    assert (decision.selected_weights[:, :2] == 1).all()
    rest = soft_topk((states @ router.weight)[:, 2:], top_k=3, epsilon=1.0)
    for row in range(BATCH):
        torch.testing.assert_close(
            decision.selected_weights[row, 2:], rest[row, decision.selected_indices[row, 2:] - 2]
        )


def test_a_budget_spent_on_the_prefix_leaves_nothing_to_choose() -> None:
    decision = router_with()(torch.randn(1, SEQ, HIDDEN), Budget(top_k=2, num_prefix_tokens=2))
    assert decision.selected_indices.tolist() == [[0, 1]]
    assert decision.selected_weights.tolist() == [[1.0, 1.0]]


def test_unused_slots_have_weight_zero() -> None:
    mask = torch.ones(2, SEQ, dtype=torch.bool)
    mask[1, 4:] = False
    budget = Budget(top_k=4, per_example=torch.tensor([4, 2]), token_mask=mask)
    decision = router_with()(torch.randn(2, SEQ, HIDDEN), budget)
    assert decision.is_selected.sum(-1).tolist() == [4, 2]
    assert (decision.selected_weights[~decision.is_selected] == 0).all()
    assert (decision.selected_indices[1][decision.is_selected[1]] < 4).all()


def test_scores_are_computed_in_float32_whatever_comes_in() -> None:
    router, states = router_with(), torch.randn(BATCH, SEQ, HIDDEN).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        decision = router(states, Budget(top_k=4))
    assert decision.router_logits.dtype == torch.float32
    expected = (states.double() @ router.weight.double()).float()
    torch.testing.assert_close(decision.router_logits, expected)


@pytest.mark.parametrize("hidden", [8, 33, 384])
def test_equal_tokens_score_alike_wherever_they_stand(hidden: int) -> None:
    router, token = Router(hidden), torch.randn(hidden)
    scores = [
        router.score(token.expand(*shape, hidden).clone(), Budget(top_k=1))
        for shape in ((1, 1), (1, 5), (2, 7), (2, 11), (8, 256))
    ]
    assert torch.cat([score.flatten() for score in scores]).unique().numel() == 1


def test_the_gradient_reaches_tokens_that_were_not_chosen() -> None:
    states = torch.randn(1, SEQ, HIDDEN, requires_grad=True)
    decision = router_with(epsilon=1.0)(states, Budget(top_k=3))
    decision.selected_weights.square().sum().backward()
    assert (states.grad.abs().sum(-1) > 0).sum() > 3


def test_the_random_baseline_is_fresh_in_training_and_fixed_otherwise() -> None:
    router, states = router_with(kind="random", seed=3), torch.zeros(1, 400, HIDDEN)
    budget = Budget(top_k=40)
    fixed = router(states, budget).selected_indices
    assert torch.equal(router(states, budget).selected_indices, fixed)
    other = router_with(kind="random", seed=4)(states, budget).selected_indices
    assert not torch.equal(other, fixed)
    router.train()
    fresh = router(states, budget).selected_indices
    assert not torch.equal(fresh, router(states, budget).selected_indices)


@pytest.mark.parametrize("num_prefix_tokens, num_suffix_tokens", [(0, 0), (1, 0), (2, 1), (3, 9)])
@pytest.mark.parametrize("kind", ["learned", "random", "first", "strided"])
def test_the_decision_is_the_same_without_a_mask_and_with_one_that_hides_nothing(
    kind: str, num_prefix_tokens: int, num_suffix_tokens: int
) -> None:
    states, router = torch.randn(BATCH, SEQ, HIDDEN), router_with(kind=kind)
    ends = {"num_prefix_tokens": num_prefix_tokens, "num_suffix_tokens": num_suffix_tokens}
    mask = torch.ones(BATCH, SEQ, dtype=torch.bool)
    for top_k in range(max(1, sum(ends.values())), SEQ + 1):
        without = router(states, Budget(top_k=top_k, **ends))
        masked = router(states, Budget(top_k=top_k, token_mask=mask, **ends))
        assert torch.equal(without.selected_indices, masked.selected_indices)
        torch.testing.assert_close(without.selected_weights, masked.selected_weights)
        assert torch.equal(without.is_selected, masked.is_selected)
        assert torch.equal(without.router_logits, masked.router_logits)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_fresh_adapter_adds_nothing_and_a_trained_one_its_formula(activation: str) -> None:
    adapter = ParallelAdapter(HIDDEN, 3, activation=activation)
    states = torch.randn(BATCH, SEQ, HIDDEN)
    residual = torch.randn_like(states)
    assert torch.equal(adapter(states, residual), residual)
    torch.nn.init.normal_(adapter.up)
    inner = states @ adapter.down.T
    formula = {
        "relu": inner.clamp_min(0),
        "gelu": inner * 0.5 * (1 + torch.erf(inner / 2**0.5)),
        "silu": inner * inner.sigmoid(),
        "tanh": inner.tanh(),
        "identity": inner,
    }[activation]
    torch.testing.assert_close(adapter(states, residual), residual + formula @ adapter.up.T)


def test_an_adapter_computes_in_the_type_of_the_states() -> None:
    adapter = ParallelAdapter(HIDDEN, 3)
    states = torch.randn(1, 2, HIDDEN, dtype=torch.bfloat16)
    assert adapter(states, states).dtype == torch.bfloat16
    assert adapter.down.dtype == torch.float32


def test_an_adapter_does_not_round_the_residual_under_autocast() -> None:
    adapter = ParallelAdapter(HIDDEN, 3)
    residual = torch.randn(1, 2, HIDDEN)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter(torch.randn(1, 2, HIDDEN), residual), residual)


@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_the_decision_is_the_same_with_and_without_gradient(num_prefix_tokens: int) -> None:
    states = torch.randn(BATCH, SEQ, HIDDEN).round()  # with ties
    router, budget = router_with(), Budget(top_k=6, num_prefix_tokens=num_prefix_tokens)
    with_gradient = router(states, budget)
    with torch.no_grad():
        without = router(states, budget)
    assert torch.equal(without.selected_indices, with_gradient.selected_indices)
    torch.testing.assert_close(without.selected_weights, with_gradient.selected_weights)
    assert with_gradient.selected_weights.requires_grad
