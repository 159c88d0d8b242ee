"""Time the encoder and a training step of every row side by side, in one process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conditional_adapters import set_reduction_factor
from conditional_adapters.analysis.timing import Timing, compile_module, time_interleaved
from conditional_adapters.model.structure import find_sites
from conditional_adapters.toolkit.tasks.task import Task

from ._config import Experiment, Row
from ._data import load_data, timing_batch
from ._methods import build_task
from ._run import count_flops


class _Candidates:
    """The rows of an experiment, untrained, each with a batch of its own: time depends on shapes.

    Args:
        experiment: The experiment.
        workspace: Where models of our own are.
    """

    def __init__(self, experiment: Experiment, workspace: Path) -> None:
        rows, self.test_rows = load_data(experiment.data, experiment.kind)
        labels = experiment.kind.labels_of(rows)
        self.found: dict[str, tuple[Task, Row, float | None]] = {}
        for name, row in experiment.rows.items():
            untrained = row.model_copy(update={"init": None, "pretraining": None})
            task = build_task(experiment, untrained, labels, workspace)
            for factor in row.reduction_factors or (None,):
                key = name if factor is None else f"{name}@{factor:g}"
                self.found[key] = (task, row, factor)
        self._batches = {
            name: timing_batch(task, rows, experiment.timing_batch)
            for name, (task, _, _) in self.found.items()
        }
        self.encoders: dict[str, Callable[..., object]] = {
            name: find_sites(task.model).runner for name, (task, _, _) in self.found.items()
        }
        self._optimizers = {
            name: torch.optim.AdamW(p for p in task.model.parameters() if p.requires_grad)
            for name, (task, _, _) in self.found.items()
        }

    def compile(self) -> None:
        """Let `encode` run compiled encoders from now on."""
        self.encoders = {
            name: compile_module(find_sites(task.model).runner)
            for name, (task, _, _) in self.found.items()
        }

    def encode(self, name: str) -> None:
        """Run the encoder of a row."""
        with torch.inference_mode():
            inputs = {k: v for k, v in self._batches[name].items() if k != "labels"}
            self.encoders[name](**inputs)

    def step(self, name: str) -> None:
        """Take a training step of a row."""
        self.found[name][0].model(**self._batches[name]).loss.backward()
        self._optimizers[name].step()
        self._optimizers[name].zero_grad()

    def time(
        self, run: Callable[[str], None], names: list[str], *, rounds: int, training: bool = False
    ) -> dict[str, Timing]:
        """Time rows in turns."""

        def prepare(name: str) -> None:
            task, _, factor = self.found[name]
            task.model.train(training)
            if factor is not None:
                set_reduction_factor(task.model, factor)

        return time_interleaved(
            {name: partial(run, name) for name in names},
            prepare=prepare,
            rounds=rounds,
            show_progress=True,
        )


def measure_speed(experiment: Experiment, workspace: Path, *, rounds: int) -> dict[str, Any]:
    """Measure all rows on the same rows of the training part, the longest texts of it.

    Nothing is trained or pretrained for that: the time depends on shapes, not on weights.
    Operations are counted as for the quality, on the test part.

    Args:
        experiment: The experiment.
        workspace: Where models of our own are.
        rounds: Measured rounds; all rows take turns in each.

    Returns:
        For each row (and reduction factor, as `row@r`) the median milliseconds of the encoder and
        of a training step, and how many times faster they are than the baseline's, round by round.
    """
    candidates = _Candidates(experiment, workspace)
    encoder = candidates.time(candidates.encode, [*candidates.found], rounds=rounds)
    # While it trains, an elastic adapter samples its reduction factor: no step of one factor.
    trained = [name for name, (_, _, factor) in candidates.found.items() if factor is None]
    training = candidates.time(candidates.step, trained, rounds=rounds, training=True)
    baseline = experiment.baseline
    speeds = {
        name: _summarise("encoder", encoder[name], encoder[baseline])
        | _flops(*found, candidates.test_rows)
        for name, found in candidates.found.items()
    }
    for name in trained:
        speeds[name] |= _summarise("training_step", training[name], training[baseline])
    return speeds


def measure_compiled_speed(
    experiment: Experiment, workspace: Path, *, rounds: int
) -> dict[str, Any]:
    """Measure the encoders of all rows as `torch.compile` makes them, the baseline's too.

    Args:
        experiment: The experiment.
        workspace: Where models of our own are.
        rounds: Measured rounds; all rows take turns in each.

    Returns:
        For each row the median milliseconds of the compiled encoder, and how many times faster it
        is than the compiled one of the baseline.
    """
    candidates = _Candidates(experiment, workspace)
    candidates.compile()
    times = candidates.time(candidates.encode, [*candidates.found], rounds=rounds)
    return {
        name: _summarise("compiled_encoder", timing, times[experiment.baseline])
        for name, timing in times.items()
    }


def _summarise(what: str, timing: Timing, baseline: Timing) -> dict[str, float]:
    lower, median, upper = (round(1e3 * seconds, 2) for seconds in timing.quartiles)
    return {
        f"{what}_milliseconds": median,
        f"{what}_milliseconds_q1": lower,
        f"{what}_milliseconds_q3": upper,
        f"{what}_times_faster": round(timing.speed_up(baseline), 3),
    }


def _flops(
    task: Task,
    row: Row,
    factor: float | None,
    rows: Any,  # noqa: ANN401
) -> dict[str, int]:
    if row.method != "adapter":
        return {}
    if factor is not None:
        set_reduction_factor(task.model, factor)
    return {"flops_per_row": count_flops(task, rows).total}
