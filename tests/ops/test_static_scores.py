"""Scores by position alone: which tokens a selection makes of them."""

import inspect
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conditional_adapters.errors import RoutingError
from conditional_adapters.ops import select_tokens, static_positions, static_router_logits

KINDS = ("random", "first", "strided")


def masks() -> Tensor:
    """Return padding on neither side, on the right, on the left, in the middle, everywhere."""
    token_mask = torch.ones(5, 12, dtype=torch.bool)
    token_mask[1, 7:] = False
    token_mask[2, :5] = False
    token_mask[3, 4:6] = False
    token_mask[4] = False
    return token_mask


def chosen_ranks(kind: str, token_mask: Tensor, budgets: Tensor) -> list[list[int]]:
    """Select by the scores; return which of the valid tokens were taken, counted from 0."""
    logits = static_router_logits(kind, token_mask, budgets=budgets)
    indices, is_selected = select_tokens(
        logits, top_k=int(budgets.max()), budgets=budgets, token_mask=token_mask
    )
    ranks = (token_mask.cumsum(-1) - 1).gather(-1, indices)
    return [row[keep].tolist() for row, keep in zip(ranks, is_selected, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_finite_float32_for_every_position(kind: str) -> None:
    token_mask = masks()
    logits = static_router_logits(kind, token_mask, budgets=torch.tensor([4, 4, 4, 4, 0]))
    assert logits.shape == token_mask.shape
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_first_selects_the_first_valid_tokens() -> None:
    budgets = torch.tensor([3, 2, 4, 5, 0])
    assert chosen_ranks("first", masks(), budgets) == [list(range(k)) for k in budgets.tolist()]


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 6, 7])
def test_strided_selects_tokens_at_even_distances(budget: int) -> None:
    token_mask = masks()
    lengths = token_mask.sum(-1)
    budgets = lengths.clamp_max(budget)
    for ranks, length in zip(chosen_ranks("strided", token_mask, budgets), lengths, strict=True):
        assert len(ranks) == min(budget, length)
        gaps = {later - earlier for earlier, later in pairwise(ranks)}
        assert not gaps or max(gaps) - min(gaps) <= 1
        assert all(abs(gap - length / len(ranks)) < 1 for gap in gaps)


@st.composite
def rows_with_ends(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Draw a length, a budget, and tokens at both ends that are selected anyway."""
    seq = draw(st.integers(1, 1100))
    top_k = draw(st.integers(1, seq))
    num_prefix_tokens = draw(st.integers(0, top_k))
    return seq, top_k, num_prefix_tokens, draw(st.integers(0, top_k - num_prefix_tokens))


@pytest.mark.parametrize("kind", ["first", "strided"])
@given(rows_with_ends())
def test_positions_are_what_a_selection_by_the_scores_chooses(
    kind: str, row: tuple[int, int, int, int]
) -> None:
    seq, top_k, first, last = row
    token_mask = torch.ones(1, seq, dtype=torch.bool)
    logits = static_router_logits(kind, token_mask, budgets=torch.tensor([top_k]))
    positions = static_positions(
        kind, seq, top_k=top_k, num_prefix_tokens=first, num_suffix_tokens=last
    )
    if top_k == first + last:
        assert positions.tolist() == []
        return
    chosen, _ = select_tokens(logits[:, first : seq - last], top_k=top_k - first - last)
    assert torch.equal(positions, chosen[0] + first)


def random_scores(seed: int | Tensor, batch: int = 64, seq: int = 1024) -> Tensor:
    token_mask = torch.ones(batch, seq, dtype=torch.bool)
    budgets = torch.full((batch,), 256)
    return static_router_logits("random", token_mask, budgets=budgets, seed=seed)


def test_random_scores_are_uniform_and_independent() -> None:
    scores = random_scores(seed=3)
    assert scores.min() >= 0
    assert scores.max() < 1
    counts = scores.histc(bins=16, min=0, max=1)
    # 4096 per bin; 250 is four standard deviations.
    assert (counts - 4096).abs().max() < 250
    by_row, by_position = torch.corrcoef(scores), torch.corrcoef(scores[:, :64].t())
    assert by_row.fill_diagonal_(0).abs().max() < 0.2
    assert by_position.fill_diagonal_(0).abs().max() < 0.7  # 64 samples per pair
    assert torch.corrcoef(torch.stack([scores[:, 1:].flatten(), scores[:, :-1].flatten()]))[
        0, 1
    ].abs().item() == pytest.approx(0, abs=0.02)


def test_random_scores_depend_on_the_seed_alone() -> None:
    first = random_scores(seed=3)
    torch.manual_seed(17)
    assert torch.equal(random_scores(seed=3), first)
    assert torch.equal(random_scores(seed=torch.tensor(3)), first)
    other = random_scores(seed=4)
    assert torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1].abs() < 0.02


def test_random_scores_accept_every_31_bit_seed() -> None:
    scores = random_scores(seed=torch.tensor(2**31 - 1))
    assert 0 <= scores.min() < scores.max() < 1
    assert 0.49 < scores.mean() < 0.51


def test_an_unknown_kind_is_refused_by_name() -> None:
    unchecked = inspect.unwrap(static_router_logits)  # type checking would refuse it earlier
    token_mask, budgets = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, dtype=torch.int64)
    with pytest.raises(RoutingError, match=r"kind must be one of .*strided.*, got 'last'"):
        unchecked("last", token_mask, budgets=budgets)
