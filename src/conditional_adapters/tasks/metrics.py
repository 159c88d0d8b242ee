"""Quality of predictions, by scikit-learn."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from transformers import EvalPrediction


def classification_metrics(
    scores: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]
) -> dict[str, float]:
    """Compute accuracy and macro-averaged F1.

    Args:
        scores: Logits or probabilities.
        labels: The right classes.

    Returns:
        `accuracy` and `macro_f1`, in [0, 1].
    """
    from sklearn.metrics import accuracy_score, f1_score

    predictions = scores.argmax(-1)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
    }


def compare_accuracy(
    scores: Float[np.ndarray, "rows classes"],
    reference: Float[np.ndarray, "rows classes"],
    labels: Int[np.ndarray, " rows"],
) -> dict[str, float]:
    """Compare two models on the same rows.

    Args:
        scores: Logits or probabilities of the model in question.
        reference: Those of the model that it is compared with.
        labels: The right classes.

    Returns:
        `accuracy_difference`, in [-1, 1], positive if the model is the better one, and `p_value` of
        McNemar's exact test: how likely equally good models would differ at least so much.
    """
    from scipy.stats import binomtest

    is_right, is_reference_right = scores.argmax(-1) == labels, reference.argmax(-1) == labels
    won, lost = (is_right & ~is_reference_right).sum(), (~is_right & is_reference_right).sum()
    p_value = binomtest(int(won), int(won + lost)).pvalue if won + lost else 1.0
    return {
        "accuracy_difference": float(won - lost) / len(labels),
        "p_value": float(p_value),
    }


def trainer_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """Compute `classification_metrics` of what transformers' Trainer collected."""
    return classification_metrics(
        np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    )
