"""Row-wise outcomes of `Task.tally` in result files, for paired comparisons.

A quality is a ratio of sums over rows: correct rows over rows, or wrong words over words.
`Outcomes` has numerator and denominator of each row; resampling rows gives an interval for any
difference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Stored = dict[str, Any]


@dataclass(frozen=True)
class Outcomes:
    """Numerator and denominator of the quality, by row.

    Attributes:
        points: Numerator of each row: whether it is correct, or its wrong words.
        sizes: Denominator of each row: 1, or its words.
    """

    points: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Quality:
    """The metric of one kind of task.

    Attributes:
        key: Name of the metric in `Task.score` and in results.
        title: Name in tables.
        lower_is_better: Whether it counts errors.
        pack: Writes outcomes into a result.
        unpack: Reads what `pack` wrote, of so many rows.
    """

    key: str
    title: str
    lower_is_better: bool
    pack: Callable[[Outcomes], Stored]
    unpack: Callable[[Stored, int], Outcomes]

    @property
    def heading(self) -> str:
        """Heading of its column."""
        return f"{self.title} (lower is better)" if self.lower_is_better else self.title


def _pack_accuracy(outcomes: Outcomes) -> Stored:
    """Write the correct rows as hexadecimal digits."""
    return {"is_right": np.packbits(outcomes.points.astype(bool)).tobytes().hex()}


def _unpack_accuracy(stored: Stored, num_rows: int) -> Outcomes:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(stored["is_right"]), dtype=np.uint8))
    return Outcomes(bits[:num_rows].astype(bool), np.ones(num_rows, dtype=int))


def _pack_words(outcomes: Outcomes) -> Stored:
    """Write the numbers of each clip in one line."""
    return {
        "word_errors": " ".join(map(str, outcomes.points.astype(int))),
        "words": " ".join(map(str, outcomes.sizes.astype(int))),
    }


def _unpack_words(stored: Stored, num_rows: int) -> Outcomes:
    errors, words = (np.array(stored[key].split(), dtype=int) for key in ("word_errors", "words"))
    return Outcomes(errors[:num_rows], words[:num_rows])


ACCURACY = Quality("accuracy", "accuracy", False, _pack_accuracy, _unpack_accuracy)
WORD_ERROR_RATE = Quality("wer", "word error rate", True, _pack_words, _unpack_words)
_QUALITIES: Mapping[str, Quality] = {
    "text-classification": ACCURACY,
    "image-classification": ACCURACY,
    "automatic-speech-recognition": WORD_ERROR_RATE,
}


def quality_of(task_name: str) -> Quality:
    """The quality measured on a kind of task.

    Args:
        task_name: The name of a `TaskKind`.

    Returns:
        The quality.

    Raises:
        SystemExit: If experiments do not measure such tasks yet.
    """
    if task_name not in _QUALITIES:
        raise SystemExit(
            f"Experiments do not support the task {task_name!r}. They support "
            f"{', '.join(_QUALITIES)}. Add the task to experiments/_quality.py."
        )
    return _QUALITIES[task_name]
