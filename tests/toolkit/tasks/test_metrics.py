import math

import numpy as np
import pytest

from conditional_adapters.toolkit.tasks.metrics import (
    accuracy_interval,
    classification_metrics,
    compare_accuracy,
)

LABELS = np.array([0, 1, 1, 0, 1, 0])


def scores_of(predictions: list[int]) -> np.ndarray:
    return np.eye(2)[predictions]


def test_accuracy_and_f1_are_those_of_the_hand_count() -> None:
    metrics = classification_metrics(scores_of([0, 1, 1, 0, 0, 1]), LABELS)
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    # Both classes: two found, one missed, one too many.
    assert metrics["macro_f1"] == pytest.approx(4 / 6)


def test_the_comparison_counts_only_rows_on_which_the_models_differ() -> None:
    model, reference = scores_of([0, 1, 1, 0, 1, 1]), scores_of([1, 0, 0, 1, 1, 0])
    compared = compare_accuracy(model, reference, LABELS)  # four rows won, one lost
    assert compared["accuracy_difference"] == pytest.approx(3 / 6)
    # Heads in at least four of five tosses, or at most one: 2 (5 + 1) / 32.
    assert compared["p_value"] == pytest.approx(12 / 32)


def test_equal_models_do_not_differ() -> None:
    same = scores_of([0, 1, 0, 1, 0, 1])
    assert compare_accuracy(same, same, LABELS) == {"accuracy_difference": 0.0, "p_value": 1.0}


def paired(both: int, won: int, lost: int, neither: int):
    """Make scores of two models and labels (all 0) with these numbers of right rows."""
    mine = [1] * both + [1] * won + [0] * lost + [0] * neither
    theirs = [1] * both + [0] * won + [1] * lost + [0] * neither
    scores = [np.array([[float(r), 0.5] for r in right]) for right in (mine, theirs)]
    return (*scores, np.zeros(len(mine), dtype=np.int64))


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    rows = 30
    for p_won, p_lost in [(0.05, 0.05), (0.02, 0.2), (0.0, 0.1), (0.3, 0.1)]:
        covered = 0.0
        for won in range(rows + 1):
            for lost in range(rows + 1 - won):
                rest = rows - won - lost
                chance = (
                    math.comb(rows, won) * math.comb(rows - won, lost)
                    * p_won**won * p_lost**lost * (1 - p_won - p_lost) ** rest
                )  # fmt: skip
                if chance > 1e-6:
                    low, high = accuracy_interval(*paired(rest, won, lost, 0))
                    covered += chance * (low <= p_won - p_lost <= high)
        assert 0.94 < covered <= 1, (p_won, p_lost, covered)


def test_the_interval_narrows_with_the_rows_and_turns_with_the_models() -> None:
    scores, reference, labels = paired(80, 5, 12, 3)
    low, high = accuracy_interval(scores, reference, labels)
    assert low < -0.07 < high
    turned = accuracy_interval(reference, scores, labels)
    assert turned == pytest.approx((-high, -low))
    more = accuracy_interval(*paired(8000, 500, 1200, 300))
    assert more[1] - more[0] == pytest.approx((high - low) / 10, rel=0.05)
    assert accuracy_interval(*paired(3, 0, 0, 0))[0] < 0  # three rows prove nothing


def test_the_interval_stays_between_minus_one_and_one() -> None:
    assert accuracy_interval(*paired(0, 0, 2, 0))[0] == -1
    assert accuracy_interval(*paired(0, 2, 0, 0))[1] == 1
