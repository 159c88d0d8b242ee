"""Quality and speed of one adapter at several reduction factors on a user's data, and a choice.

The quality at each r is compared example by example with the smallest r, the reference. Speed is
the latency of the encoder on the longest examples; the runs of all r are interleaved.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...analysis import estimate_flops
from ...analysis._modes import evaluating, keeping_reduction_factor
from ...analysis.timing import Timing, time_interleaved
from ...config import check_reduction_factor
from ...errors import ConfigError
from ...model.attach import set_reduction_factor
from ...model.attachment import active_adapter, get_attachment
from ...model.structure import find_sites
from ._collate import examples_of
from .comparison import ratio_difference_interval, ratio_of_sums
from .inference import length_of, predict
from .metrics import accuracy_interval, compare_accuracy
from .models import Classifier
from .task import Quality, Task

if TYPE_CHECKING:
    import datasets

DEFAULT_FACTORS = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 16.0)


@dataclass(frozen=True, kw_only=True)
class FactorMeasurement:
    """One reduction factor on a data set.

    Attributes:
        reduction_factor: r.
        metrics: All metrics of the task by name.
        difference: The quality minus the quality of the reference.
        difference_interval: Its 95 % confidence interval: Bonett and Price for accuracy, else a
            paired bootstrap.
        p_value: Of McNemar's exact test against the reference; None if not a classifier.
        num_differing: Number of examples on which the quality differs.
        seconds: Median latency of the encoder on one batch of the longest examples.
        speed_up: Latency of the reference divided by this latency; the median over rounds.
        flop_ratio: FLOPs of the reference divided by these FLOPs, on the same batch.
    """

    reduction_factor: float
    metrics: dict[str, float]
    difference: float
    difference_interval: tuple[float, float]
    p_value: float | None
    num_differing: int
    seconds: float
    speed_up: float
    flop_ratio: float


@dataclass(frozen=True, kw_only=True)
class FactorCurve:
    """Quality and speed over r.

    Attributes:
        measurements: One per reduction factor, ascending; the first is the reference.
        quality: The metric that is compared.
        num_rows: Number of examples that the quality was measured on.
        batch_shape: Shape of the timed input: [batch, tokens] or [batch, channels, height, width].
    """

    measurements: tuple[FactorMeasurement, ...]
    quality: Quality
    num_rows: int
    batch_shape: tuple[int, ...]

    @property
    def reference(self) -> FactorMeasurement:
        """The smallest reduction factor that was measured."""
        return self.measurements[0]

    def choose(self, *, max_drop: float) -> FactorMeasurement | None:
        """Return the largest r that keeps the quality.

        Args:
            max_drop: Largest allowed loss against the reference, in points (hundredths), from 0 to
                100. An error may rise by this much, any other metric may fall.

        Returns:
            The measurement, or None if no r above the reference qualifies.

        Raises:
            ConfigError: If `max_drop` is out of range.
        """
        if not 0 <= max_drop <= 100:
            raise ConfigError(
                f"max_drop must be between 0 and 100 points of {self.quality.name}, got "
                f"{max_drop}. 0.5 allows 97.5 % accuracy where the reference has 98 %."
            )
        for measurement in reversed(self.measurements[1:]):
            # A drop of exactly max_drop must not fail by rounding.
            drop = self.points_lost(measurement.difference)
            if drop <= max_drop or math.isclose(drop, max_drop, rel_tol=1e-9):
                return measurement
        return None

    def points_lost(self, difference: float) -> float:
        """Convert a difference in quality to points lost, negative if the reference is worse."""
        return 100 * difference if self.quality.is_error else -100 * difference


def factors_to_measure(task: Task) -> tuple[float, ...]:
    """Return the factors that an elastic adapter was trained at, or else `DEFAULT_FACTORS`."""
    name = active_adapter(task.model)
    trained = set(get_attachment(task.model).configs[name].elastic_factors)
    return tuple(sorted(trained)) if len(trained) > 1 else DEFAULT_FACTORS


def measure_factors(
    task: Task,
    rows: "datasets.Dataset",
    factors: Iterable[float],
    *,
    batch_size: int = 32,
    timing_batch: int = 8,
    rounds: int = 15,
    show_progress: bool = False,
) -> FactorCurve:
    """Measure the quality and the speed of one adapter at several reduction factors.

    The mode and the reduction factor of the model are restored.

    Args:
        task: A task whose model is conditional.
        rows: From `load_task_rows`, with targets; at least two.
        factors: At least two different reduction factors, each >= 1.
        batch_size: Examples per forward pass for the quality, >= 1.
        timing_batch: Examples per timed forward pass, >= 1: the longest, or all if there are fewer.
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
            f"a curve needs at least 2 different reduction factors, got {ordered}. The smallest is "
            "the reference for the others. Give more, such as 2, 4 and 8."
        )
    model = task.model
    batch = _longest_batch(task, rows, timing_batch)
    metrics, tallies = {}, {}
    with evaluating(model), keeping_reduction_factor(model):
        for factor in ordered:
            set_reduction_factor(model, factor)
            predictions = predict(task, rows, batch_size=batch_size, show_progress=show_progress)
            metrics[factor] = task.score(predictions, rows)
            tallies[factor] = task.tally(predictions, rows)
        timings = _time(task, batch, ordered, rounds=rounds, show_progress=show_progress)
        flops = {}
        for factor in ordered:
            set_reduction_factor(model, factor)
            flops[factor] = estimate_flops(model, inputs=batch).total
    first = ordered[0]
    compare = _compare_right_rows if isinstance(task, Classifier) else _compare_ratios
    return FactorCurve(
        measurements=tuple(
            FactorMeasurement(
                reduction_factor=factor,
                metrics=metrics[factor],
                **compare(tallies[factor], tallies[first]),
                num_differing=int((tallies[factor] != tallies[first]).any(1).sum()),
                seconds=timings[factor].median,
                speed_up=timings[factor].speed_up(over=timings[first]),
                flop_ratio=flops[first] / flops[factor],
            )
            for factor in ordered
        ),
        quality=task.quality,
        num_rows=len(rows),
        batch_shape=tuple(batch[model.main_input_name].shape),
    )


def _compare_right_rows(
    tally: Float[np.ndarray, "examples 2"], reference: Float[np.ndarray, "examples 2"]
) -> dict[str, Any]:
    """Compare accuracies; the two classes of each example are wrong and right."""
    right, reference_right = (np.eye(2)[each[:, 0].astype(int)] for each in (tally, reference))
    is_right = np.ones(len(tally), dtype=int)
    compared = compare_accuracy(right, reference_right, is_right)
    interval = accuracy_interval(right, reference_right, is_right)
    return {
        "difference": compared["accuracy_difference"],
        "p_value": compared["p_value"],
        "difference_interval": (0.0, 0.0) if tally is reference else interval,
    }


def _compare_ratios(
    tally: Float[np.ndarray, "examples 2"], reference: Float[np.ndarray, "examples 2"]
) -> dict[str, Any]:
    return {
        "difference": ratio_of_sums(tally) - ratio_of_sums(reference),
        "p_value": None,
        "difference_interval": ratio_difference_interval(tally, reference),
    }


def _time(
    task: Task,
    batch: Mapping[str, Tensor],
    factors: Sequence[float],
    *,
    rounds: int,
    show_progress: bool,
) -> dict[float, Timing]:
    model = task.model
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


def _longest_batch(task: Task, rows: "datasets.Dataset", num_rows: int) -> dict[str, Tensor]:
    """Collate the examples with the most tokens; images have a fixed size."""
    if num_rows < 1:
        raise ConfigError(f"timing_batch must be at least 1, got {num_rows}. Raise timing_batch.")
    if task.inputs == ("image",):
        rows = rows.select(range(min(num_rows, len(rows))))
    rows = rows.select_columns(list(task.inputs))
    longest: list[dict[str, Any]] = []
    for start in range(0, len(rows), task.chunk_size):
        encoded = task.encode(rows[start : start + task.chunk_size])
        longest = heapq.nlargest(num_rows, [*longest, *examples_of(encoded)], key=length_of)
    batch = task.collate(longest)
    return {name: tensor.to(task.model.device) for name, tensor in batch.items()}
