"""Ranking by bits against the order of Python's floats."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conditional_adapters.ops._ranking import largest_indices

WIDTHS = {torch.float16: 16, torch.float32: 32, torch.float64: 64}


@pytest.mark.parametrize("dtype", WIDTHS)
@given(data=st.data())
def test_the_largest_come_first(data: st.DataObject, dtype: torch.dtype) -> None:
    # Zeros of both signs, subnormal numbers and infinities included.
    number = st.floats(width=WIDTHS[dtype], allow_nan=False)
    row = data.draw(st.lists(number, min_size=1, max_size=30))
    count = data.draw(st.integers(1, len(row)))
    indices = largest_indices(torch.tensor(row, dtype=dtype), count).tolist()
    assert len(set(indices)) == count
    assert [row[index] for index in indices] == sorted(row, reverse=True)[:count]


@pytest.mark.parametrize("dtype", [*WIDTHS, torch.bfloat16])
def test_rows_are_ranked_alone_as_topk_ranks_them(dtype: torch.dtype) -> None:
    scores = torch.randn(7, 2, 300).transpose(0, 1).to(dtype)
    chosen = scores.gather(-1, largest_indices(scores, 40))
    assert torch.equal(chosen, scores.topk(40).values)
