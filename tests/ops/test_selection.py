"""Hard selection against a Python loop over ranked positions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conditional_adapters.errors import RoutingError
from conditional_adapters.ops import prefix_mask, select_tokens


def ranked(scores: list[float], valid: list[bool], always: list[bool]) -> list[int]:
    """List positions best first: `always` before the rest, padding last."""

    def merit(position: int) -> tuple[bool, bool, float]:
        return (valid[position], always[position], scores[position])

    return sorted(range(len(scores)), key=merit, reverse=True)


def selected(case: tuple[Tensor, Tensor], row: int) -> list[int]:
    indices, is_selected = case
    return indices[row, is_selected[row]].tolist()


@st.composite
def batches(draw: st.DrawFn) -> dict[str, object]:
    """Draw scores without ties, masks, budgets up to the valid and `always` up to the budget."""
    seq, top_k = draw(
        st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
    )
    case: dict[str, list] = {"scores": [], "valid": [], "always": [], "budgets": []}
    for _ in range(draw(st.integers(1, 4))):
        valid = draw(st.lists(st.booleans(), min_size=seq, max_size=seq))
        budget = draw(st.integers(0, min(top_k, sum(valid))))
        favourites = draw(st.sets(st.integers(0, seq - 1), max_size=budget))
        case["scores"].append(draw(st.permutations(range(-3, seq - 3))))
        case["valid"].append(valid)
        case["always"].append([position in favourites for position in range(seq)])
        case["budgets"].append(budget)
    return case | {"top_k": top_k}


@given(batches())
def test_selection_agrees_with_a_loop(case: dict[str, list]) -> None:
    chosen = select_tokens(
        torch.tensor(case["scores"]).float(),
        top_k=case["top_k"],
        budgets=torch.tensor(case["budgets"]),
        token_mask=torch.tensor(case["valid"]),
        always=torch.tensor(case["always"]),
    )
    indices, is_selected = chosen
    assert indices.dtype == torch.int64
    assert indices.shape == is_selected.shape == (len(case["scores"]), case["top_k"])
    assert (indices.diff(dim=-1) > 0).all()  # ascending and distinct, placeholders too
    for row, budget in enumerate(case["budgets"]):
        best = ranked(case["scores"][row], case["valid"][row], case["always"][row])
        assert selected(chosen, row) == sorted(best[:budget])
        assert all(case["valid"][row][position] for position in selected(chosen, row))


@given(batches())
def test_without_budgets_every_slot_is_selected(case: dict[str, list]) -> None:
    chosen = select_tokens(torch.tensor(case["scores"]).float(), top_k=case["top_k"])
    everyone, no_one = [True] * 12, [False] * 12
    for row, scores in enumerate(case["scores"]):
        best = ranked(scores, everyone, no_one)[: case["top_k"]]
        assert selected(chosen, row) == sorted(best)


def test_tokens_that_are_always_selected_precede_any_score() -> None:
    scores = torch.tensor([[1e30, 5.0, -1e30, 3.0]])
    always = torch.tensor([[False, False, True, False]])
    assert select_tokens(scores, top_k=1, always=always)[0].tolist() == [[2]]
    assert select_tokens(scores, top_k=2, always=always)[0].tolist() == [[0, 2]]


def test_padding_is_never_selected_although_its_score_is_highest() -> None:
    scores = torch.tensor([[1.0, 2.0, 9.0, 9.0]])
    chosen = select_tokens(
        scores,
        top_k=3,
        budgets=torch.tensor([2]),
        token_mask=torch.tensor([[True, True, False, False]]),
        always=torch.tensor([[False, False, False, True]]),
    )
    assert selected(chosen, 0) == [0, 1]


@pytest.mark.parametrize("has_budgets", [False, True])
def test_tied_scores_give_distinct_positions(has_budgets: bool) -> None:
    budgets = torch.full((3,), 7) if has_budgets else None
    indices, is_selected = select_tokens(torch.zeros(3, 20), top_k=7, budgets=budgets)
    assert is_selected.all()
    assert (indices.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_dtype_is_ranked(dtype: torch.dtype) -> None:
    scores = torch.arange(20).flip(0).view(1, 20).to(dtype)
    assert select_tokens(scores, top_k=3)[0].tolist() == [[0, 1, 2]]


def test_scores_may_be_non_contiguous() -> None:
    scores = torch.randn(16, 3).t()
    chosen = select_tokens(scores, top_k=5, budgets=torch.tensor([5, 3, 0]))
    expected = select_tokens(scores.contiguous(), top_k=5, budgets=torch.tensor([5, 3, 0]))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(chosen, expected, strict=True))


def test_the_choice_has_no_gradient_and_leaves_the_scores_alone() -> None:
    scores = torch.randn(2, 8, requires_grad=True)
    before = scores.detach().clone()
    everyone = torch.ones(2, 8, dtype=torch.bool)
    indices, _ = select_tokens(scores, top_k=3, token_mask=~everyone, always=everyone)
    assert not indices.requires_grad
    assert torch.equal(scores, before)


@pytest.mark.parametrize("top_k", [0, -1, 9])
def test_a_number_of_slots_outside_the_sequence_is_refused(top_k: int) -> None:
    message = f"top_k must be between 1 and the sequence length 8, got {top_k}"
    with pytest.raises(RoutingError, match=message):
        select_tokens(torch.zeros(2, 8), top_k=top_k)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 13))
def test_the_prefix_is_the_first_valid_tokens(valid: list[bool], num_prefix_tokens: int) -> None:
    mask = prefix_mask(num_prefix_tokens, torch.tensor([valid]))
    first = [position for position, is_valid in enumerate(valid) if is_valid][:num_prefix_tokens]
    assert mask.nonzero()[:, 1].tolist() == first


@pytest.mark.compile  # the graph alone: code generation takes long and is tested in soft_topk
def test_the_compiled_selection_gives_equal_positions() -> None:
    def choose(scores: Tensor, budgets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        always = prefix_mask(2, valid)
        return select_tokens(scores, top_k=6, budgets=budgets, token_mask=valid, always=always)

    scores, budgets = torch.randn(3, 20), torch.tensor([6, 4, 2])
    valid = torch.arange(20) < torch.tensor([[20], [9], [2]])
    expected = choose(scores, budgets, valid)
    chosen = torch.compile(choose, fullgraph=True, backend="aot_eager")(scores, budgets, valid)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(chosen, expected, strict=True))
