"""Train and evaluate one row of an experiment with one seed."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from conditional_adapters import FlopCount, estimate_flops, set_reduction_factor
from conditional_adapters.toolkit.tasks._collate import examples_of
from conditional_adapters.toolkit.tasks.inference import length_of, predict
from conditional_adapters.toolkit.tasks.task import Task
from conditional_adapters.training import TrainingSettings, finetune

from ._config import Experiment, Row
from ._data import load_data
from ._methods import build_task, count_new_parameters
from ._quality import Outcomes, quality_of
from ._results import Run

if TYPE_CHECKING:
    import datasets


def run_row(experiment: Experiment, name: str, row_name: str, seed: int, workspace: Path) -> Run:
    """Train and evaluate.

    Args:
        experiment: The experiment.
        name: Its name.
        row_name: One of its rows.
        seed: Seed of new parameters, dropout and order.
        workspace: Where checkpoints go; a run that was interrupted goes on from there.

    Returns:
        What `results.json` keeps of the run.
    """
    from transformers import set_seed

    row, settings = experiment.row_settings(row_name)
    train_rows, test_rows = load_data(experiment.data, experiment.kind)
    set_seed(seed)
    task = build_task(experiment, row, experiment.kind.labels_of(train_rows), workspace)
    new, dense = count_new_parameters(task, row.method)
    output = workspace / name / row_name / f"{seed}-{experiment.digest(row_name)}"
    seconds, steps = _train(task, train_rows, output, replace(settings, seed=seed))
    return {
        "settings": experiment.digest(row_name),
        "steps": steps,
        "training_seconds": round(seconds, 1),
        "load_average": round(os.getloadavg()[1], 1),
        "training_rows": len(train_rows),
        "evaluated_on": experiment.data.evaluate_on,
        "rows": len(test_rows),
        "new_parameters": new,
        "new_parameters_share": new / dense,
        "results": [
            _evaluate(task, row, factor, test_rows) for factor in row.reduction_factors or (None,)
        ],
    }


def _train(
    task: Task, rows: "datasets.Dataset", output: Path, settings: TrainingSettings
) -> tuple[float, int]:
    """Train; return the seconds and the steps."""
    start = perf_counter()
    is_interrupted = any(output.glob("checkpoint-*"))
    trainer = finetune(task, rows, output=output, settings=settings, resume=is_interrupted)
    return perf_counter() - start, trainer.state.global_step


def _evaluate(
    task: Task, row: Row, factor: float | None, rows: "datasets.Dataset"
) -> dict[str, Any]:
    """Evaluate with one reduction factor, or as the model is."""
    if factor is not None:
        set_reduction_factor(task.model, factor)
    predictions = predict(task, rows, show_progress=True)
    result: dict[str, Any] = {k: round(v, 5) for k, v in task.score(predictions, rows).items()}
    if factor is not None:
        result["reduction_factor"] = factor
    if row.method == "adapter":
        flops = count_flops(task, rows)
        result["flops_per_row"], result["flop_ratio"] = flops.total, round(flops.ratio, 4)
    points, sizes = task.tally(predictions, rows).T
    return result | quality_of(task.name).pack(Outcomes(points, sizes))


def count_flops(task: Task, rows: "datasets.Dataset") -> FlopCount:
    """Count the operations for one row.

    Args:
        task: A task whose model is conditional.
        rows: Images or recordings; of texts only the length counts.

    Returns:
        The count for a text of full length, or for an image as it is prepared. Of recordings, whose
        budgets differ, the mean, each counted alone.
    """
    if task.model.main_input_name == "input_ids":
        return estimate_flops(task.model, batch_size=1, sequence_length=task.max_length)
    if "audio" in task.inputs:
        return _mean_count(task, rows)
    return _count_row(task, rows, 0)


def _mean_count(task: Task, rows: "datasets.Dataset") -> FlopCount:
    """Mean over recordings; those whose speech fits n / r tokens cost the same."""
    lengths: list[int] = []
    for start in range(0, len(rows), task.chunk_size):
        end = min(start + task.chunk_size, len(rows))
        lengths += map(length_of, _examples(task, rows, range(start, end)))
    shortest, *others = sorted(range(len(rows)), key=lengths.__getitem__)
    least = _count_row(task, rows, shortest)
    totals: list[int] = []
    for index in reversed(others):
        total = _count_row(task, rows, index).total
        if total == least.total:
            break
        totals.append(total)
    total = sum(totals) + (len(rows) - len(totals)) * least.total
    return FlopCount(total=round(total / len(rows)), dense=least.dense)


def _count_row(task: Task, rows: "datasets.Dataset", index: int) -> FlopCount:
    batch = task.collate(_examples(task, rows, [index]))
    return estimate_flops(
        task.model, inputs={name: values.to(task.model.device) for name, values in batch.items()}
    )


def _examples(task: Task, rows: "datasets.Dataset", indices: Iterable[int]) -> list[dict[str, Any]]:
    """Encode some rows without their targets."""
    return examples_of(task.encode(rows.select_columns(list(task.inputs)).select(indices)[:]))
