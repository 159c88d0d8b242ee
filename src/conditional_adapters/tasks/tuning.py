"""What each reduction factor costs and gains on a user's own rows, and which one to choose.

One trained adapter is asked at several r. Quality is compared row by row with the smallest r, the
reference. Speed is that of the encoder on the longest of the rows, all r in turns.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._attachment import active_adapter, get_attachment
from .._sites import find_sites
from ..analysis import estimate_flops
from ..analysis._modes import evaluating, keeping_reduction_factor
from ..analysis.timing import Timing, time_interleaved
from ..attach import set_reduction_factor
from ..config import check_reduction_factor
from ..errors import ConfigError
from ._collate import examples_of
from .inference import length_of, predict_scores
from .metrics import accuracy_interval, classification_metrics, compare_accuracy
from .models import Classifier

if TYPE_CHECKING:
    import datasets

DEFAULT_FACTORS = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 16.0)
_CHUNK = 1024  # rows that are encoded at a time to find the longest


@dataclass(frozen=True, kw_only=True)
class FactorMeasurement:
    """One reduction factor on a data set.

    Attributes:
        reduction_factor: r.
        accuracy: Share of the rows that are right.
        macro_f1: Mean of the classes' F1.
        accuracy_difference: Accuracy minus that of the reference, in [-1, 1].
        difference_interval: Its 95 % confidence interval.
        p_value: Of McNemar's exact test against the reference.
        seconds: Median time of the encoder for one batch of the longest rows.
        speed_up: How many times faster than the reference; the median of ratios within a round.
        flop_ratio: How many times fewer operations than the reference, on the same batch.
    """

    reduction_factor: float
    accuracy: float
    macro_f1: float
    accuracy_difference: float
    difference_interval: tuple[float, float]
    p_value: float
    seconds: float
    speed_up: float
    flop_ratio: float


@dataclass(frozen=True, kw_only=True)
class FactorCurve:
    """Quality and speed over r.

    Attributes:
        measurements: One per reduction factor, ascending; the first is the reference.
        num_rows: Rows that the quality was measured on.
        batch_shape: Shape of the timed input: rows by tokens, or rows by channels, height, width.
    """

    measurements: tuple[FactorMeasurement, ...]
    num_rows: int
    batch_shape: tuple[int, ...]

    @property
    def reference(self) -> FactorMeasurement:
        """The smallest reduction factor that was measured."""
        return self.measurements[0]

    def choose(self, *, max_drop: float) -> FactorMeasurement | None:
        """Find the largest r that keeps the accuracy.

        Args:
            max_drop: How much accuracy may be lost against the reference, in points (hundredths);
                >= 0.

        Returns:
            The measurement, or None if no r above the reference qualifies.

        Raises:
            ConfigError: If `max_drop` is out of range.
        """
        if not 0 <= max_drop <= 100:
            raise ConfigError(
                f"max_drop must be between 0 and 100 points of accuracy, got {max_drop}. "
                "0.5 allows 97.5 % where the reference has 98 %."
            )
        for measurement in reversed(self.measurements[1:]):
            # Counts of rows decide; a drop of exactly max_drop must not fail by rounding.
            drop = -100 * measurement.accuracy_difference
            if drop <= max_drop or math.isclose(drop, max_drop, rel_tol=1e-9):
                return measurement
        return None


def factors_to_measure(classifier: Classifier) -> tuple[float, ...]:
    """Return the factors that an elastic adapter was trained at, or a usual range for another.

    Args:
        classifier: A classifier whose model is conditional.

    Returns:
        Reduction factors, ascending.

    Raises:
        AttachmentError: If the model has no active adapter.
    """
    name = active_adapter(classifier.model)
    trained = set(get_attachment(classifier.model).configs[name].elastic_factors)
    return tuple(sorted(trained)) if len(trained) > 1 else DEFAULT_FACTORS


def measure_factors(
    classifier: Classifier,
    rows: "datasets.Dataset",
    factors: Iterable[float],
    *,
    batch_size: int = 32,
    timing_batch: int = 8,
    rounds: int = 15,
    show_progress: bool = False,
) -> FactorCurve:
    """Measure the quality and the speed of one adapter at several reduction factors.

    Afterwards the model is in the mode and at the reduction factor it had.

    Args:
        classifier: A classifier whose model is conditional.
        rows: As `load_rows` returns, with labels.
        factors: Two or more different reduction factors, each >= 1.
        batch_size: Rows per forward pass while quality is measured, >= 1.
        timing_batch: Rows per timed forward pass, >= 1: the longest, or all if there are fewer.
        rounds: Timed runs of each factor, >= 3.
        show_progress: Show progress bars.

    Returns:
        The measurements.

    Raises:
        ConfigError: If a number is out of range or there are fewer than two factors.
        AttachmentError: If the model has no active adapter.
    """
    ordered = sorted({check_reduction_factor(factor) for factor in factors})
    if len(ordered) < 2:
        raise ConfigError(
            f"a curve needs at least 2 different reduction factors, got {ordered}: the smallest is "
            "the reference for the others. Give more, such as 2, 4 and 8."
        )
    model = classifier.model
    labels = np.asarray(rows["label"])
    batch = _longest_batch(classifier, rows, timing_batch)
    with evaluating(model), keeping_reduction_factor(model):
        scores = {}
        for factor in ordered:
            set_reduction_factor(model, factor)
            scores[factor] = predict_scores(
                classifier, rows, batch_size=batch_size, show_progress=show_progress
            )
        timings = _time(classifier, batch, ordered, rounds=rounds, show_progress=show_progress)
        flops = {}
        for factor in ordered:
            set_reduction_factor(model, factor)
            flops[factor] = estimate_flops(model, inputs=batch).total
    first = ordered[0]
    return FactorCurve(
        measurements=tuple(
            FactorMeasurement(
                reduction_factor=factor,
                **classification_metrics(scores[factor], labels),
                **compare_accuracy(scores[factor], scores[first], labels),
                difference_interval=(
                    accuracy_interval(scores[factor], scores[first], labels)
                    if factor != first
                    else (0.0, 0.0)
                ),
                seconds=timings[factor].median,
                speed_up=timings[factor].speed_up(over=timings[first]),
                flop_ratio=flops[first] / flops[factor],
            )
            for factor in ordered
        ),
        num_rows=len(rows),
        batch_shape=tuple(batch[model.main_input_name].shape),
    )


def _time(
    classifier: Classifier,
    batch: Mapping[str, Tensor],
    factors: Sequence[float],
    *,
    rounds: int,
    show_progress: bool,
) -> dict[float, Timing]:
    model = classifier.model
    encoder: Any = find_sites(model).runner

    def encode() -> None:
        with torch.inference_mode():
            encoder(**batch)

    names = {str(factor): factor for factor in factors}
    timings = time_interleaved(
        dict.fromkeys(names, encode),
        prepare=lambda name: set_reduction_factor(model, names[name]),
        rounds=rounds,
        show_progress=show_progress,
    )
    return {names[name]: timing for name, timing in timings.items()}


def _longest_batch(
    classifier: Classifier, rows: "datasets.Dataset", num_rows: int
) -> dict[str, Tensor]:
    """Collate the rows with the most tokens; images are all of one size."""
    if num_rows < 1:
        raise ConfigError(f"timing_batch must be at least 1, got {num_rows}. Raise timing_batch.")
    column = classifier.modality
    if column == "image":
        rows = rows.select(range(min(num_rows, len(rows))))
    longest: list[dict[str, Any]] = []
    for start in range(0, len(rows), _CHUNK):
        encoded = classifier.encode({column: rows[start : start + _CHUNK][column]})
        longest = heapq.nlargest(num_rows, [*longest, *examples_of(encoded)], key=length_of)
    batch = classifier.collate(longest)
    return {name: tensor.to(classifier.model.device) for name, tensor in batch.items()}
