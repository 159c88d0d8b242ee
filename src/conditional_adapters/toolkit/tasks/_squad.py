"""The metrics of SQuAD 1.1."""

import re
import string
from collections import Counter


def exact_match(prediction: str, answer: str) -> float:
    """Tell whether two answers are the same but for case, punctuation, articles and blanks.

    Args:
        prediction: What the model says.
        answer: A right answer.

    Returns:
        1 or 0.

    Source:
        The evaluation script of SQuAD 1.1 (arXiv:1606.05250).
    """
    return float(_normalise(prediction) == _normalise(answer))


def word_f1(prediction: str, answer: str) -> float:
    """Compute the harmonic mean of precision and recall over words, normalised as above.

    Args:
        prediction: What the model says.
        answer: A right answer.

    Returns:
        F1 in [0, 1].

    Source:
        The evaluation script of SQuAD 1.1 (arXiv:1606.05250).
    """
    predicted, gold = _normalise(prediction).split(), _normalise(answer).split()
    num_shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * num_shared / (len(predicted) + len(gold)) if num_shared else 0.0


def _normalise(text: str) -> str:
    without_marks = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without_marks).split())
