import numpy as np
import pytest

from conditional_adapters.tasks.metrics import classification_metrics, compare_accuracy

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
