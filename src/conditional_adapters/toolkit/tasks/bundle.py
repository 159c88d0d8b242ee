"""Saving and loading of a trained task.

`task.json` beside the adapter records the task, the base model, the classes and the length at which
texts are cut. The base model itself is not saved.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ...checkpoint.atomic import replace_text
from ...checkpoint.download import find_adapter_folder
from ...checkpoint.files import TASK_FILE
from ...checkpoint.save_load import load_adapter, save_adapter
from ...errors import CheckpointError
from ...hub.model_card import write_model_card
from ...model.attach import set_reduction_factor
from .kinds import CLASSIFICATION, TASKS, find_task
from .models import Classifier
from .task import Task


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """Record of the task of a trained adapter.

    Attributes:
        task: The name of a `TaskKind`.
        base_model: Name of the dense model: a local folder, a hub id, or a packaged model.
        labels: Class names in the order of the logits; empty if there are no classes.
        max_length: Tokens at which texts are cut; None if the input has a fixed size.
    """

    task: str
    base_model: str
    labels: tuple[str, ...]
    max_length: int | None


def save_task(task: Task, directory: str | os.PathLike[str], *, base_model: str) -> Path:
    """Write the active adapter of a task's model, its record and its model card.

    Args:
        task: A task whose model is conditional.
        directory: Created if needed.
        base_model: Name of the dense model that the task was loaded from.

    Returns:
        The directory.
    """
    path = save_adapter(task.model, directory)
    record = TaskRecord(
        task=task.name, base_model=base_model, labels=task.labels, max_length=task.max_length
    )
    replace_text(path / TASK_FILE, json.dumps(asdict(record), indent=2) + "\n")
    write_model_card(path)
    return path


def load_trained_task(
    directory: str | os.PathLike[str],
    *,
    reduction_factor: float | None = None,
    revision: str | None = None,
) -> Task:
    """Load a trained task: base model and adapter.

    Args:
        directory: A folder that `save_task` wrote, or a hub id.
        reduction_factor: Tokens per processed token; None means as trained.
        revision: Branch, tag or commit on the Hub; None means the main branch.

    Returns:
        The task, its model in evaluation mode.

    Raises:
        CheckpointError: If the files are missing or damaged, or do not fit the base model.
        ConfigError: If the base model cannot be loaded or the factor is out of range.
    """
    directory = find_adapter_folder(directory, revision=revision)
    record = read_task(directory)
    task = find_task(record.task).load(
        record.base_model, record.labels, max_length=record.max_length
    )
    load_adapter(task.model, directory)
    if reduction_factor is not None:
        set_reduction_factor(task.model, reduction_factor)
    return task


def load_trained_classifier(
    directory: str | os.PathLike[str],
    *,
    reduction_factor: float | None = None,
    revision: str | None = None,
) -> Classifier:
    """Load a trained classifier; as `load_trained_task`, but refuses other tasks."""
    directory = find_adapter_folder(directory, revision=revision)
    name = read_task(directory).task
    if name not in CLASSIFICATION:
        raise CheckpointError(
            f"{directory} is an adapter for {name}, not a classifier. Give one that was trained "
            f"for {' or '.join(CLASSIFICATION)}."
        )
    task = load_trained_task(directory, reduction_factor=reduction_factor)
    assert isinstance(task, Classifier), "the loaders of CLASSIFICATION return classifiers"
    return task


def read_task(directory: str | os.PathLike[str]) -> TaskRecord:
    """Read the record of a trained adapter.

    Args:
        directory: A folder that `save_task` wrote.

    Returns:
        The record.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    path = Path(directory) / TASK_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "modality" in values:  # written before there were other tasks
            values["task"] = f"{values.pop('modality')}-classification"
        record = TaskRecord(**{**values, "labels": tuple(values["labels"])})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {TASK_FILE} in {path.parent}. Give the adapter directory that `coda train` wrote."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Copy it again from where the adapter was trained."
        ) from error
    if record.task not in TASKS:
        raise CheckpointError(
            f"{path} has the task {record.task!r}, which this version does not support. It "
            f"supports {', '.join(TASKS)}. Update the library."
        )
    return record
