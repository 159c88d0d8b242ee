"""Time the encoder and a training step of every row side by side, in one process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conditional_adapters import set_reduction_factor
from conditional_adapters._sites import find_sites
from conditional_adapters.analysis.timing import Timing, time_interleaved
from conditional_adapters.tasks.task import Task

from ._config import Experiment, Row
from ._data import load_data, timing_batch
from ._methods import build_task
from ._run import count_flops


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
    rows, test_rows = load_data(experiment.data, experiment.kind)
    labels = experiment.kind.labels_of(rows)
    candidates: dict[str, tuple[Task, Row, float | None]] = {}
    for name, row in experiment.rows.items():
        untrained = row.model_copy(update={"init": None, "pretraining": None})
        task = build_task(experiment, untrained, labels, workspace)
        for factor in row.reduction_factors or (None,):
            key = name if factor is None else f"{name}@{factor:g}"
            candidates[key] = (task, row, factor)
    batches = {
        name: timing_batch(task, rows, experiment.timing_batch)
        for name, (task, _, _) in candidates.items()
    }
    optimizers = {
        name: torch.optim.AdamW(p for p in task.model.parameters() if p.requires_grad)
        for name, (task, _, _) in candidates.items()
    }

    encoders = {name: find_sites(task.model).runner for name, (task, _, _) in candidates.items()}

    def prepare(name: str, *, training: bool) -> None:
        task, _, factor = candidates[name]
        task.model.train(training)
        if factor is not None:
            set_reduction_factor(task.model, factor)

    def encode(name: str) -> None:
        with torch.inference_mode():
            inputs = {k: v for k, v in batches[name].items() if k != "labels"}
            encoders[name](**inputs)

    def step(name: str) -> None:
        candidates[name][0].model(**batches[name]).loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    def time(run: Callable[[str], None], names: list[str], *, training: bool) -> dict[str, Timing]:
        return time_interleaved(
            {name: partial(run, name) for name in names},
            prepare=lambda name: prepare(name, training=training),
            rounds=rounds,
            show_progress=True,
        )

    encoder = time(encode, [*candidates], training=False)
    # While it trains, an elastic adapter samples its reduction factor: no step of one factor.
    trained = [name for name, (_, _, factor) in candidates.items() if factor is None]
    training = time(step, trained, training=True)
    baseline = experiment.baseline
    speeds = {
        name: _summarise("encoder", encoder[name], encoder[baseline])
        | _flops(*candidates[name], test_rows)
        for name in candidates
    }
    for name in trained:
        speeds[name] |= _summarise("training_step", training[name], training[baseline])
    return speeds


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
