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


def trainer_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """Compute `classification_metrics` of what transformers' Trainer collected."""
    return classification_metrics(
        np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    )
