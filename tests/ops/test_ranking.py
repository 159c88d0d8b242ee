"""Ranking by integers against Python's stable sort of floats."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conditional_adapters.ops._ranking import largest_indices

WIDTHS = {torch.float16: 16, torch.float32: 32, torch.float64: 64}


def in_order(row: list[float], count: int) -> list[int]:
    return sorted(range(len(row)), key=lambda index: -row[index])[:count]


@pytest.mark.parametrize("dtype", WIDTHS)
@given(data=st.data())
def test_the_largest_come_first_and_ties_in_order(data: st.DataObject, dtype: torch.dtype) -> None:
    # Zeros of both signs, subnormal numbers and infinities included.
    number = st.floats(width=WIDTHS[dtype], allow_nan=False) | st.sampled_from([-1.0, 0.0, -0.0])
    row = data.draw(st.lists(number, min_size=1, max_size=30))
    count = data.draw(st.integers(1, len(row)))
    indices = largest_indices(torch.tensor(row, dtype=dtype), count).tolist()
    assert indices == in_order(row, count)


@pytest.mark.parametrize("dtype", [*WIDTHS, torch.bfloat16])
def test_rows_are_ranked_alone(dtype: torch.dtype) -> None:
    scores = torch.randn(7, 2, 300).mul(3).round().transpose(0, 1).to(dtype)  # with many ties
    indices = largest_indices(scores, 40)
    for first in range(2):
        for second in range(7):
            assert indices[first, second].tolist() == in_order(scores[first, second].tolist(), 40)
