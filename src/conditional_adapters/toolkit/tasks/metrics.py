"""Metrics of predictions, by scikit-learn, scipy and jiwer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ._extras import import_extra

if TYPE_CHECKING:
    import datasets
    from transformers import EvalPrediction

    from .task import Prediction


def classification_metrics(
    scores: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> dict[str, float]:
    """Compute accuracy and macro-averaged F1."""
    from sklearn.metrics import accuracy_score, f1_score

    predictions = scores.argmax(-1)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
    }


def score_labels(
    predictions: "Sequence[Prediction]", labels: Sequence[str], rows: "datasets.Dataset"
) -> dict[str, float]:
    """Compute accuracy and macro-averaged F1 of predicted classes, as `Task.score`.

    Args:
        predictions: One per example, the class name under `label`.
        labels: The names of all classes.
        rows: Examples with the numbers of the correct classes.

    Returns:
        `accuracy` and `macro_f1`, in [0, 1].
    """
    numbers = {label: number for number, label in enumerate(labels)}
    chosen = np.array([numbers[prediction["label"]] for prediction in predictions])
    return classification_metrics(np.eye(len(labels))[chosen], np.asarray(rows["label"]))


def tally_labels(
    predictions: "Sequence[Prediction]", labels: Sequence[str], rows: "datasets.Dataset"
) -> Float[np.ndarray, "examples 2"]:
    """Count correct predictions, as `Task.tally`; arguments as for `score_labels`."""
    pairs = zip(predictions, rows["label"], strict=True)
    return np.array([[p["label"] == labels[label], 1.0] for p, label in pairs])


def compare_accuracy(
    scores: Float[np.ndarray, "examples classes"],
    reference: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
) -> dict[str, float]:
    """Compare the accuracy of two models on the same examples.

    Args:
        scores: Logits or probabilities of the model.
        reference: Those of the reference model.
        labels: The correct classes.

    Returns:
        `accuracy_difference`, in [-1, 1], positive if the model is better, and `p_value` of
        McNemar's exact test.
    """
    from scipy.stats import binomtest

    won, lost = _disagreements(scores, reference, labels)
    p_value = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return {
        "accuracy_difference": (won - lost) / len(labels),
        "p_value": float(p_value),
    }


def accuracy_interval(
    scores: Float[np.ndarray, "examples classes"],
    reference: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
) -> tuple[float, float]:
    """95 % confidence interval of the difference in accuracy of two models on the same examples.

    Args:
        scores: Logits or probabilities of the model.
        reference: Those of the reference model.
        labels: The correct classes.

    Returns:
        Lower and upper bound, in [-1, 1]; negative where the reference is better.

    Source:
        Bonett and Price (2012), "Adjusted Wald confidence interval for a difference of binomial
        proportions based on paired data". It adds one example that each model wins, so it also
        holds for few examples and for models that never disagree.
    """
    from scipy.stats import norm

    won, lost = _disagreements(scores, reference, labels)
    num_rows = len(labels) + 2
    share_won, share_lost = (won + 1) / num_rows, (lost + 1) / num_rows
    difference = share_won - share_lost
    variance = (share_won + share_lost - difference**2) / num_rows
    margin = float(norm.ppf(0.975)) * variance**0.5
    return max(difference - margin, -1.0), min(difference + margin, 1.0)


def _disagreements(
    scores: Float[np.ndarray, "examples classes"],
    reference: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
) -> tuple[int, int]:
    """Count the examples that only the model, and only the reference, predicts correctly."""
    is_right, is_reference_right = scores.argmax(-1) == labels, reference.argmax(-1) == labels
    won, lost = is_right & ~is_reference_right, ~is_right & is_reference_right
    return int(won.sum()), int(lost.sum())


def word_errors(references: Sequence[str], texts: Sequence[str]) -> list[tuple[int, int]]:
    """Count word errors by jiwer, after Whisper's English normaliser."""
    jiwer = import_extra("jiwer", extra="speech", purpose="the word error rate")
    english = import_extra(
        "whisper_normalizer.english", extra="speech", purpose="the word error rate"
    )
    normalise = english.EnglishTextNormalizer()
    counts = []
    for reference, text in zip(references, texts, strict=True):
        words = normalise(reference)
        aligned = jiwer.process_words(words, normalise(text))
        errors = aligned.substitutions + aligned.deletions + aligned.insertions
        counts.append((errors, len(words.split())))
    return counts


def trainer_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """Compute `classification_metrics` for transformers' Trainer."""
    return classification_metrics(
        np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    )
