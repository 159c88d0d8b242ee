"""Train and evaluate one row of an experiment with one seed."""

import os
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from conditional_adapters import FlopCount, estimate_flops, set_reduction_factor
from conditional_adapters.tasks.inference import predict
from conditional_adapters.tasks.task import Task
from conditional_adapters.training import TrainingSettings, finetune

from ._config import Experiment, Row
from ._data import load_data, timing_batch
from ._methods import build_task, count_new_parameters
from ._quality import quality_of
from ._results import Run

if TYPE_CHECKING:
    import datasets

_COUNTED_ROWS = 8  # of those whose operations are not all the same


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
    quality = quality_of(task.name)
    return result | quality.pack(quality.measure(predictions, rows))


def count_flops(task: Task, rows: "datasets.Dataset") -> FlopCount:
    """Count the operations for one row.

    Args:
        task: A task whose model is conditional.
        rows: With targets.

    Returns:
        The count for a text of full length, for an image as it is prepared, or for a window of
        speech. Where routers know the length of the speech, it is the mean of the first rows in one
        batch.
    """
    model = task.model
    if model.main_input_name == "input_ids":
        return estimate_flops(model, batch_size=1, sequence_length=task.max_length)
    batch = timing_batch(task, rows, min(_COUNTED_ROWS, len(rows)))
    size = len(batch.pop("labels"))
    count = estimate_flops(model, inputs=batch)
    return FlopCount(total=round(count.total / size), dense=round(count.dense / size))
