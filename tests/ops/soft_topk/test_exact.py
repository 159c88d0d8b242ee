"""The exact soft top-k: against bisection, its closed-form gradient, and what it promises."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conditional_adapters.ops import select_and_weigh, soft_topk
from tests.helpers.soft_topk_oracles import bisect_soft_topk

EPSILONS = (0.02, 0.1, 1.0)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

scores = st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=40)
epsilons = st.floats(0.02, 1.0)


def rows(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def difference(weights: Tensor, expected: Tensor) -> float:
    return (weights.double() - expected).abs().max().item()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("seq", [1, 2, 7, 63, 1000, 4096])
def test_agrees_with_bisection(seq: int, epsilon: float, dtype: torch.dtype) -> None:
    logits = rows(3, seq, dtype=dtype)
    for top_k in {1, math.ceil(seq / 3), max(seq - 1, 1), seq, seq + 5}:
        weights = soft_topk(logits, top_k=top_k, epsilon=epsilon)
        assert weights.dtype == dtype
        assert difference(weights, bisect_soft_topk(logits, top_k, epsilon)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_agrees_with_bisection_for_a_budget_and_a_mask_per_row(
    epsilon: float, dtype: torch.dtype
) -> None:
    logits = rows(40, 65, dtype=dtype)
    token_mask = torch.rand(40, 65) < torch.linspace(0, 1, 40).unsqueeze(-1)
    top_k = torch.arange(40)  # below, at and above the number of valid tokens; 0 in the first row
    weights = soft_topk(logits, top_k=top_k, epsilon=epsilon, token_mask=token_mask)
    expected = bisect_soft_topk(logits, top_k, epsilon, token_mask)
    assert difference(weights, expected) < TOLERANCE[dtype]
    assert not weights[~token_mask].any()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("top_k", [1, 2, 40, 99, 100])
def test_chosen_tokens_alone_get_the_weights_of_bisection(
    top_k: int, epsilon: float, dtype: torch.dtype
) -> None:
    logits = rows(5, 100, dtype=dtype)
    indices, weights = select_and_weigh(logits, top_k=top_k, epsilon=epsilon)
    assert torch.equal(indices, logits.topk(top_k).indices.sort(-1).values)
    expected = bisect_soft_topk(logits, top_k, epsilon).gather(-1, indices)
    assert difference(weights, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("top_k", [1, 4, 30, 70])
def test_agrees_with_bisection_for_one_budget_and_a_mask(top_k: int) -> None:
    logits, token_mask = rows(20, 65), torch.rand(20, 65) < 0.4
    weights = soft_topk(logits, top_k=top_k, epsilon=0.1, token_mask=token_mask)
    assert difference(weights, bisect_soft_topk(logits, top_k, 0.1, token_mask)) < 1e-12


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_agrees_with_bisection_for_huge_logits(epsilon: float, dtype: torch.dtype) -> None:
    logits = 1e4 * rows(4, 200, dtype=dtype)
    logits[1] += 1e4
    logits[2] = logits[2].round(decimals=-3)  # many ties, far apart
    logits[3] = 1e4 + logits[3] * 1e-6  # close together, far from 0
    for top_k in (1, 50, 199):
        weights = soft_topk(logits, top_k=top_k, epsilon=epsilon)
        assert difference(weights, bisect_soft_topk(logits, top_k, epsilon)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_agrees_with_bisection_when_scores_are_tied(epsilon: float, dtype: torch.dtype) -> None:
    logits = torch.randint(0, 4, (10, 50)).to(dtype)
    for top_k in (1, 2, 13, 25, 49):
        weights = soft_topk(logits, top_k=top_k, epsilon=epsilon)
        assert difference(weights, bisect_soft_topk(logits, top_k, epsilon)) < TOLERANCE[dtype]


def test_equal_scores_share_the_budget_equally() -> None:
    weights = soft_topk(torch.full((2, 8), -7.0), top_k=3, epsilon=0.02)
    torch.testing.assert_close(weights, torch.full((2, 8), 3 / 8), atol=1e-7, rtol=0)


def test_empty_rows_get_nothing_and_full_rows_get_exactly_one() -> None:
    logits = rows(4, 6)
    token_mask = torch.ones(4, 6, dtype=torch.bool)
    token_mask[0] = False
    token_mask[3, 2:] = False
    top_k = torch.tensor([3, 0, 6, 5])
    weights = soft_topk(logits, top_k=top_k, epsilon=0.1, token_mask=token_mask)
    expected = torch.tensor([[0] * 6, [0] * 6, [1] * 6, [1, 1, 0, 0, 0, 0]])
    torch.testing.assert_close(weights, expected.double(), atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(9,), (2, 9), (2, 3, 9)])
def test_any_number_of_batch_axes_is_solved_row_by_row(shape: tuple[int, ...]) -> None:
    logits = rows(*shape)
    top_k = torch.randint(0, 10, shape[:-1])
    weights = soft_topk(logits, top_k=top_k, epsilon=0.3)
    assert difference(weights, bisect_soft_topk(logits, top_k, 0.3)) < 1e-12


def test_the_input_may_be_non_contiguous_and_is_not_changed() -> None:
    logits = rows(33, 5).t()
    before = logits.clone()
    weights = soft_topk(logits, top_k=4, epsilon=0.1)
    assert difference(weights, bisect_soft_topk(before, 4, 0.1)) < 1e-12
    torch.testing.assert_close(logits, before, atol=0, rtol=0)


@pytest.mark.parametrize("bound", [7, 12, 40, 100])
def test_a_bound_on_the_budgets_changes_nothing(bound: int) -> None:
    logits, top_k = rows(8, 40), torch.arange(8)
    expected = soft_topk(logits, top_k=top_k, epsilon=0.1)
    weights = soft_topk(logits, top_k=top_k, max_top_k=bound, epsilon=0.1)
    torch.testing.assert_close(weights, expected, atol=1e-14, rtol=0)


def test_exponentials_beyond_the_number_range_do_no_harm() -> None:
    logits = torch.tensor([[3e38, 1e30, 2.0, 1.9, -1e30, -3e38]], requires_grad=True)
    weights = soft_topk(logits, top_k=3, epsilon=0.1)
    (grad,) = torch.autograd.grad(weights[0, 2], logits)
    expected = bisect_soft_topk(logits, 3, 0.1)
    assert difference(weights, expected) < 1e-6
    share = expected[0, 2:4]  # the two tokens that compete for the last place
    slope = (share[0] * share[1] / 0.1).item()
    torch.testing.assert_close(grad, torch.tensor([[0, 0, slope, -slope, 0, 0]]))


# Gradient


def closed_form(weights: Tensor, epsilon: float) -> Tensor:
    """Return dw_i/ds_j of one row, from METHOD: the softmax Jacobian on the unsaturated tokens."""
    free = torch.where(weights < 1, weights, 0.0)
    return (torch.diag(free) - torch.outer(free, free) / free.sum()) / epsilon


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("top_k", [1, 5, 16])
def test_gradient_is_the_closed_form(top_k: int, epsilon: float) -> None:
    logits = rows(17)
    jacobian = torch.autograd.functional.jacobian(
        lambda s: soft_topk(s, top_k=top_k, epsilon=epsilon), logits
    )
    expected = closed_form(bisect_soft_topk(logits, top_k, epsilon), epsilon)
    torch.testing.assert_close(jacobian, expected, atol=1e-10, rtol=1e-10)


def test_gradient_agrees_with_finite_differences() -> None:
    logits = rows(4, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_topk(s, top_k=4, epsilon=0.3), logits)
    assert torch.autograd.gradgradcheck(lambda s: soft_topk(s, top_k=4, epsilon=0.3), logits)


def test_gradient_agrees_with_finite_differences_for_a_budget_and_a_mask_per_row() -> None:
    logits = rows(5, 12).requires_grad_()
    token_mask = torch.rand(5, 12) < 0.7
    token_mask[4] = False
    top_k = torch.tensor([0, 1, 3, 12, 2])
    assert torch.autograd.gradcheck(
        lambda s: soft_topk(s, top_k=top_k, epsilon=0.3, token_mask=token_mask), logits
    )


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_gradient_is_the_one_of_the_converged_iteration(epsilon: float) -> None:
    logits = rows(3, 20).requires_grad_()
    cotangent = rows(3, 20)
    (grad,) = torch.autograd.grad(soft_topk(logits, top_k=6, epsilon=epsilon), logits, cotangent)
    converged = soft_topk(
        logits, top_k=6, epsilon=epsilon, method="iterative", num_iterations=400, epsilon_init=1.0
    )
    (expected,) = torch.autograd.grad(converged, logits, cotangent)
    torch.testing.assert_close(grad, expected, atol=1e-11, rtol=1e-9)


def test_full_rows_have_a_gradient_of_zero() -> None:
    logits = rows(2, 5).requires_grad_()
    (grad,) = torch.autograd.grad(soft_topk(logits, top_k=5, epsilon=0.1).sum(), logits)
    assert not grad.any()


# Properties


@given(scores, st.integers(1, 45), epsilons)
def test_weights_lie_between_0_and_1_and_sum_to_the_budget(
    row: list[float], top_k: int, epsilon: float
) -> None:
    weights = soft_topk(torch.tensor(row).double(), top_k=top_k, epsilon=epsilon)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.sum().item() == pytest.approx(min(top_k, len(row)), rel=1e-12)


@given(scores, st.integers(1, 45), epsilons)
def test_a_higher_score_never_gets_a_lower_weight(
    row: list[float], top_k: int, epsilon: float
) -> None:
    weights = soft_topk(torch.tensor(sorted(row)).double(), top_k=top_k, epsilon=epsilon)
    assert (weights.diff() >= 0).all()


@given(scores.flatmap(lambda row: st.tuples(st.just(row), st.permutations(range(len(row))))))
def test_permuting_the_scores_permutes_the_weights(case: tuple[list[float], list[int]]) -> None:
    row, permutation = torch.tensor(case[0]).double(), case[1]
    weights = soft_topk(row, top_k=3, epsilon=0.1)
    permuted = soft_topk(row[permutation], top_k=3, epsilon=0.1)
    torch.testing.assert_close(permuted, weights[permutation], atol=1e-14, rtol=0)


@given(scores, st.integers(-1000, 1000))
def test_shifting_all_scores_changes_nothing(row: list[float], shift: int) -> None:
    logits = torch.tensor(row).double().round(decimals=3)
    weights = soft_topk(logits, top_k=3, epsilon=0.1)
    shifted = soft_topk(logits + shift, top_k=3, epsilon=0.1)
    torch.testing.assert_close(shifted, weights, atol=1e-10, rtol=0)


@given(scores, epsilons)
def test_a_budget_of_1_is_a_softmax(row: list[float], epsilon: float) -> None:
    logits = torch.tensor(row).double()
    weights = soft_topk(logits, top_k=1, epsilon=epsilon)
    torch.testing.assert_close(weights, (logits / epsilon).softmax(-1), atol=1e-12, rtol=0)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=40, unique=True), st.data())
def test_small_epsilon_approaches_hard_top_k(row: list[int], data: st.DataObject) -> None:
    logits = torch.tensor(row).double()
    top_k = data.draw(st.integers(1, len(row)))
    hard = torch.zeros_like(logits).scatter(-1, logits.topk(top_k).indices, 1.0)
    distances = [
        (soft_topk(logits, top_k=top_k, epsilon=epsilon) - hard).abs().max().item()
        for epsilon in (10.0, 1.0, 0.1, 0.01)
    ]
    assert all(later <= earlier + 1e-14 for earlier, later in pairwise(distances))
    assert distances[-1] < 1e-12
