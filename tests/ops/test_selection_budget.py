"""The token budget against exact fractions."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from conditional_adapters.ops import token_budget


@given(st.integers(0, 100_000), st.integers(4, 400), st.integers(0, 10))
def test_budget_is_the_quotient_rounded_up_within_its_bounds(
    length: int, quarters: int, minimum: int
) -> None:
    exact = math.ceil(Fraction(length) / Fraction(quarters, 4))
    expected = min(max(exact, minimum), length)
    assert token_budget(length, quarters / 4, minimum=minimum) == expected


@example([39, 78], 1.3)  # a quotient in float32 would round up to the next integer
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=20), st.floats(1, 100))
def test_a_tensor_of_lengths_gives_the_same_budgets_as_single_lengths(
    lengths: list[int], reduction_factor: float
) -> None:
    budgets = token_budget(torch.tensor(lengths), reduction_factor)
    assert budgets.tolist() == [token_budget(length, reduction_factor) for length in lengths]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_tensor_of_budgets_has_the_dtype_of_the_lengths(dtype: torch.dtype) -> None:
    assert token_budget(torch.tensor([5, 0], dtype=dtype), 2.0).dtype == dtype


def test_every_non_empty_sequence_gets_a_token_and_an_empty_one_none() -> None:
    assert [token_budget(length, 100.0) for length in (0, 1, 2, 100, 101)] == [0, 1, 1, 1, 2]


def test_a_reduction_factor_of_1_keeps_all_tokens() -> None:
    assert [token_budget(length, 1.0) for length in range(5)] == list(range(5))


def test_a_sequence_shorter_than_the_minimum_gets_all_its_tokens() -> None:
    assert token_budget(torch.tensor([2, 3, 50]), 10.0, minimum=4).tolist() == [2, 3, 5]
