"""Train and evaluate one row of an experiment with one seed."""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from conditional_adapters import FlopCount, estimate_flops, set_reduction_factor
from conditional_adapters.tasks._collate import examples_of
from conditional_adapters.tasks.data import DataSpec, Modality, load_rows, split_train_test
from conditional_adapters.tasks.inference import predict_scores
from conditional_adapters.tasks.metrics import classification_metrics
from conditional_adapters.tasks.models import Classifier, modality_of
from conditional_adapters.training import TrainingSettings, finetune

from ._config import Data, Experiment, Row
from ._methods import build_classifier, count_new_parameters
from ._results import Run, pack

if TYPE_CHECKING:
    import datasets

_SPLIT_SEED = 0


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
    train_rows, test_rows = load_data(experiment.data, modality_of(experiment.model))
    set_seed(seed)
    classifier = build_classifier(experiment, row, train_rows.features["label"].names, workspace)
    new, dense = count_new_parameters(classifier, row.method)
    output = workspace / name / row_name / f"{seed}-{experiment.digest(row_name)}"
    seconds, steps = _train(classifier, train_rows, output, replace(settings, seed=seed))
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
            _evaluate(classifier, row, factor, test_rows)
            for factor in row.reduction_factors or (None,)
        ],
    }


@cache
def load_data(data: Data, modality: Modality) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Return the rows that train and those that are evaluated."""
    train = load_rows(DataSpec(source=data.source, split=data.split), modality=modality)
    test = None
    if data.test_split is not None:
        spec = DataSpec(source=data.source, split=data.test_split)
        test = load_rows(spec, modality=modality, labels=train.features["label"].names)
        if data.test_rows is not None and data.test_rows < len(test):
            test = split_train_test(test, test_size=data.test_rows, seed=_SPLIT_SEED)[1]
    elif data.test_rows is not None:
        train, test = split_train_test(train, test_size=data.test_rows, seed=_SPLIT_SEED)
    if data.evaluate_on == "validation":
        train, test = split_train_test(train, test_size=data.validation_rows, seed=_SPLIT_SEED)
    if test is None:
        raise SystemExit("data needs test_rows or test_split.")
    if data.train_rows is not None and data.train_rows < len(train):
        train = split_train_test(train, test_size=data.train_rows, seed=_SPLIT_SEED)[1]
    return train, test


def _train(
    classifier: Classifier, rows: "datasets.Dataset", output: Path, settings: TrainingSettings
) -> tuple[float, int]:
    """Train; return the seconds and the steps."""
    start = perf_counter()
    is_interrupted = any(output.glob("checkpoint-*"))
    trainer = finetune(classifier, rows, output=output, settings=settings, resume=is_interrupted)
    return perf_counter() - start, trainer.state.global_step


def _evaluate(
    classifier: Classifier, row: Row, factor: float | None, rows: "datasets.Dataset"
) -> dict[str, Any]:
    """Evaluate with one reduction factor, or as the model is."""
    if factor is not None:
        set_reduction_factor(classifier.model, factor)
    labels = np.asarray(rows["label"])
    scores = predict_scores(classifier, rows, show_progress=True)
    metrics = classification_metrics(scores, labels)
    result: dict[str, Any] = {key: round(value, 5) for key, value in metrics.items()}
    if factor is not None:
        result["reduction_factor"] = factor
    if row.method == "adapter":
        flops = count_flops(classifier, rows)
        result["flops_per_row"], result["flop_ratio"] = flops.total, round(flops.ratio, 4)
    return result | {"is_right": pack(scores.argmax(-1) == labels)}


def count_flops(classifier: Classifier, rows: "datasets.Dataset") -> FlopCount:
    """Count the operations of one text of full length, or of one image as it is prepared."""
    if classifier.modality == "text":
        return estimate_flops(classifier.model, batch_size=1, sequence_length=classifier.max_length)
    columns = classifier.encode({"image": rows[:1]["image"]})
    inputs = classifier.collate(examples_of(columns))
    return estimate_flops(classifier.model, inputs=inputs)
