"""The paper's iteration against a loop that follows its update rules, and a published package."""

import numpy as np
import pytest
import torch
from torch import Tensor

from conditional_adapters.ops import soft_topk
from tests.helpers.soft_topk_oracles import bisect_soft_topk, coordinate_ascent

# The schedule of the paper: 20 rounds, from 4.0 downwards by 0.7 per round.
SCHEDULE = {"num_iterations": 20, "epsilon_init": 4.0, "epsilon_decay": 0.7}
EPSILONS = (0.03, 0.3, 1.0)


def iterative(logits: Tensor, top_k: int | Tensor, epsilon: float, **settings: object) -> Tensor:
    return soft_topk(
        logits, top_k=top_k, epsilon=epsilon, method="iterative", **(SCHEDULE | settings)
    )


def loop(logits: Tensor, top_k: int, epsilon: float, *, start: float, **settings: object) -> Tensor:
    """Run the oracle row by row from `b = start * s`."""
    return torch.stack(
        [
            torch.from_numpy(
                coordinate_ascent(row, top_k, epsilon, start=start * row, **(SCHEDULE | settings))
            )
            for row in logits.double().numpy()
        ]
    )


def coor_descent(logits: Tensor, top_k: int, epsilon: float) -> Tensor:
    from colt5_attention import coor_descent

    return coor_descent(logits, k=top_k, eps=epsilon, eps_init=4.0, eps_decay=0.7, n_iters=20)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("num_iterations", [1, 2, 20, 60])
def test_follows_the_update_rules(num_iterations: int, epsilon: float) -> None:
    logits = 3 * torch.randn(4, 100, dtype=torch.float64)
    for top_k in (1, 33, 99):
        weights = iterative(logits, top_k, epsilon, num_iterations=num_iterations)
        expected = loop(logits, top_k, epsilon, start=0.0, num_iterations=num_iterations)
        torch.testing.assert_close(weights, expected, atol=1e-11, rtol=0)


def test_temperature_starts_at_the_target_if_that_is_higher() -> None:
    logits = torch.randn(2, 30, dtype=torch.float64)
    weights = iterative(logits, 10, 1.0, epsilon_init=0.5, num_iterations=3)
    expected = iterative(logits, 10, 1.0, epsilon_init=1.0, epsilon_decay=1.0, num_iterations=3)
    torch.testing.assert_close(weights, expected, atol=0, rtol=0)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_agrees_with_colt5_attention_once_its_start_is_forgotten(epsilon: float) -> None:
    # It starts from b = -s, which makes its first ceiling 4 ln(n / k) whatever the scores. From a
    # ceiling above all scores the rounds go on as from b = 0.
    logits = torch.randn(8, 300, dtype=torch.float64)
    assert logits.max() < 4 * np.log(300 / 100)
    weights, expected = iterative(logits, 100, epsilon), coor_descent(logits, 100, epsilon)
    torch.testing.assert_close(weights, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_colt5_attention_differs_by_its_start_alone(epsilon: float) -> None:
    logits = 10 * torch.randn(4, 100, dtype=torch.float64)
    theirs = coor_descent(logits, 33, epsilon)
    from_minus_s = loop(logits, 33, epsilon, start=-1.0)
    torch.testing.assert_close(theirs, from_minus_s, atol=1e-11, rtol=0)


@pytest.mark.parametrize("epsilon", [0.1, 0.3, 1.0])
def test_many_rounds_reach_the_exact_solution(epsilon: float) -> None:
    logits = torch.randn(4, 60, dtype=torch.float64)
    weights = iterative(logits, 20, epsilon, num_iterations=2000)
    expected = bisect_soft_topk(logits, 20, epsilon)
    torch.testing.assert_close(weights, expected, atol=1e-11, rtol=0)


def test_few_rounds_at_a_small_epsilon_fall_short_of_the_budget() -> None:
    logits = torch.randn(16, 512)
    totals = iterative(logits, 171, 0.03).sum(-1) / 171
    assert 0.7 < totals.min() < totals.max() < 0.85  # 0.78 on average, as METHOD measured


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_weights_lie_between_0_and_1_and_keep_the_order(epsilon: float) -> None:
    logits = (100 * torch.randn(20, 50)).sort(-1).values
    weights = iterative(logits, 7, epsilon)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert (weights.diff() >= 0).all()


def test_shifting_all_scores_changes_nothing() -> None:
    logits = torch.randn(4, 50, dtype=torch.float64)
    weights, shifted = iterative(logits, 7, 0.1), iterative(logits + 100, 7, 0.1)
    torch.testing.assert_close(shifted, weights, atol=1e-10, rtol=0)


def test_rows_with_a_mask_and_a_budget_are_solved_alone() -> None:
    logits = torch.randn(6, 20, dtype=torch.float64)
    token_mask = torch.rand(6, 20) < 0.7
    top_k = torch.tensor([1, 2, 3, 4, 5, 6])
    weights = iterative(logits, top_k, 0.3, token_mask=token_mask)
    for row in range(6):
        chosen = logits[row, token_mask[row]]
        expected = loop(chosen.unsqueeze(0), int(top_k[row]), 0.3, start=0.0)[0]
        torch.testing.assert_close(weights[row, token_mask[row]], expected, atol=1e-12, rtol=0)
    assert not weights[~token_mask].any()


def test_empty_rows_get_nothing_and_full_rows_get_exactly_one() -> None:
    logits = torch.randn(4, 6, requires_grad=True)
    token_mask = torch.ones(4, 6, dtype=torch.bool)
    token_mask[0] = False
    token_mask[3, 2:] = False
    weights = iterative(logits, torch.tensor([3, 0, 6, 5]), 0.1, token_mask=token_mask)
    expected = torch.tensor([[0.0] * 6, [0.0] * 6, [1.0] * 6, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(weights, expected, atol=0, rtol=0)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        (grad,) = torch.autograd.grad(weights.sum(), logits)
    assert not grad.any()


def test_gradient_agrees_with_finite_differences() -> None:
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    token_mask = torch.rand(5, 9) < 0.8
    token_mask[4] = False
    top_k = torch.tensor([0, 1, 3, 9, 2])
    assert torch.autograd.gradcheck(
        lambda s: iterative(s, top_k, 0.3, token_mask=token_mask, num_iterations=8), logits
    )
