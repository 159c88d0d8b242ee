"""Ranking by integers against Python's stable sort of floats."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conditional_adapters.ops.selection import first_largest_indices, largest_indices

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
    scores = torch.tensor(row, dtype=dtype)
    expected = in_order(row, count)
    assert first_largest_indices(scores, count).tolist() == expected
    indices = largest_indices(scores, count).tolist()
    assert len(set(indices)) == count
    assert [row[index] for index in indices] == [row[index] for index in expected]


@pytest.mark.parametrize("dtype", [*WIDTHS, torch.bfloat16])
def test_rows_are_ranked_alone(dtype: torch.dtype) -> None:
    scores = torch.randn(7, 2, 300).mul(3).round().transpose(0, 1).to(dtype)  # with many ties
    indices = first_largest_indices(scores, 40)
    assert torch.equal(scores.gather(-1, largest_indices(scores, 40)), scores.topk(40).values)
    for first in range(2):
        for second in range(7):
            assert indices[first, second].tolist() == in_order(scores[first, second].tolist(), 40)
