"""What is measured on each kind of task, row by row, so that two runs can be compared in pairs.

A quality is a ratio of sums over rows: right rows over rows, or wrong words over words. `Outcomes`
keeps both parts of each row; resampling rows then gives an interval for any difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conditional_adapters.tasks.metrics import word_errors
from conditional_adapters.tasks.task import Prediction

if TYPE_CHECKING:
    import datasets

Stored = dict[str, Any]


@dataclass(frozen=True)
class Outcomes:
    """What each row adds to the quality of a run.

    Attributes:
        points: Of each row; for example whether it is right, or its wrong words.
        sizes: What the points of each row are out of; for example 1, or its words.
    """

    points: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Quality:
    """How one kind of task is judged.

    Attributes:
        key: The metric, as `Task.score` and the results call it.
        title: What the tables call it.
        lower_is_better: Whether it counts errors.
        measure: Judges each row of predictions.
        pack: Writes outcomes into a result.
        unpack: Reads what `pack` wrote, of so many rows.
    """

    key: str
    title: str
    lower_is_better: bool
    measure: Callable[[Sequence[Prediction], "datasets.Dataset"], Outcomes]
    pack: Callable[[Outcomes], Stored]
    unpack: Callable[[Stored, int], Outcomes]

    @property
    def heading(self) -> str:
        """What stands above a column of it."""
        return f"{self.title} (lower is better)" if self.lower_is_better else self.title


def _measure_accuracy(predictions: Sequence[Prediction], rows: "datasets.Dataset") -> Outcomes:
    names = rows.features["label"].names
    labels = [names[label] for label in rows["label"]]
    right = [p["label"] == label for p, label in zip(predictions, labels, strict=True)]
    return Outcomes(np.array(right), np.ones(len(right), dtype=int))


def _pack_accuracy(outcomes: Outcomes) -> Stored:
    """Write which rows are right as hexadecimal digits."""
    return {"is_right": np.packbits(outcomes.points).tobytes().hex()}


def _unpack_accuracy(stored: Stored, num_rows: int) -> Outcomes:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(stored["is_right"]), dtype=np.uint8))
    return Outcomes(bits[:num_rows].astype(bool), np.ones(num_rows, dtype=int))


def _measure_words(predictions: Sequence[Prediction], rows: "datasets.Dataset") -> Outcomes:
    counts = word_errors(rows["text"], [prediction["text"] for prediction in predictions])
    errors, words = np.array(counts).T
    return Outcomes(errors, words)


def _pack_words(outcomes: Outcomes) -> Stored:
    """Write the numbers of each clip in one line."""
    return {
        "word_errors": " ".join(map(str, outcomes.points)),
        "words": " ".join(map(str, outcomes.sizes)),
    }


def _unpack_words(stored: Stored, num_rows: int) -> Outcomes:
    errors, words = (np.array(stored[key].split(), dtype=int) for key in ("word_errors", "words"))
    return Outcomes(errors[:num_rows], words[:num_rows])


ACCURACY = Quality(
    "accuracy", "accuracy", False, _measure_accuracy, _pack_accuracy, _unpack_accuracy
)
WORD_ERROR_RATE = Quality(
    "wer", "word error rate", True, _measure_words, _pack_words, _unpack_words
)
_QUALITIES: Mapping[str, Quality] = {
    "text-classification": ACCURACY,
    "image-classification": ACCURACY,
    "automatic-speech-recognition": WORD_ERROR_RATE,
}


def quality_of(task_name: str) -> Quality:
    """Return what is measured on a kind of task.

    Args:
        task_name: The name of a `TaskKind`.

    Returns:
        The quality.

    Raises:
        SystemExit: If experiments do not measure such tasks yet.
    """
    if task_name not in _QUALITIES:
        raise SystemExit(
            f"experiments do not measure {task_name!r} yet, only {', '.join(_QUALITIES)}; add it "
            "to experiments/_quality.py."
        )
    return _QUALITIES[task_name]
