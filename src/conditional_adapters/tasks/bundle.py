"""A trained classifier on disk: its adapter, and what is needed to use it again.

`task.json` beside the adapter names the base model, the classes and the length at which texts are
cut. The base model itself is not copied.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .._atomic import replace_text
from ..attach import set_reduction_factor
from ..checkpoint import load_adapter, save_adapter
from ..errors import CheckpointError
from .data import Modality
from .models import Classifier, load_classifier

TASK_FILE = "task.json"


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What a trained classifier is for.

    Attributes:
        base_model: The model that was made conditional, as `load_classifier` takes it.
        modality: "text" or "image".
        labels: Class names in the order of the logits.
        max_length: Tokens at which texts are cut; None for images.
    """

    base_model: str
    modality: Modality
    labels: tuple[str, ...]
    max_length: int | None


def save_classifier(
    classifier: Classifier, directory: str | os.PathLike[str], *, base_model: str
) -> Path:
    """Write a classifier's active adapter and its task record.

    Args:
        classifier: A classifier whose model is conditional.
        directory: Made if needed.
        base_model: What `load_classifier` was given.

    Returns:
        The directory.
    """
    path = save_adapter(classifier.model, directory)
    record = TaskRecord(
        base_model=base_model,
        modality=classifier.modality,
        labels=classifier.labels,
        max_length=classifier.max_length,
    )
    replace_text(path / TASK_FILE, json.dumps(asdict(record), indent=2) + "\n")
    return path


def load_trained_classifier(
    directory: str | os.PathLike[str], *, reduction_factor: float | None = None
) -> Classifier:
    """Load the base model of a trained classifier and put the adapter into it.

    Args:
        directory: What `save_classifier` wrote.
        reduction_factor: Tokens per processed token; None means as trained.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        CheckpointError: If the files are missing or damaged, or do not fit the base model.
        ConfigError: If the base model cannot be loaded or the factor is out of range.
    """
    record = read_task(directory)
    classifier = load_classifier(record.base_model, record.labels, max_length=record.max_length)
    load_adapter(classifier.model, directory)
    if reduction_factor is not None:
        set_reduction_factor(classifier.model, reduction_factor)
    return classifier


def read_task(directory: str | os.PathLike[str]) -> TaskRecord:
    """Read the task record of a trained classifier.

    Args:
        directory: What `save_classifier` wrote.

    Returns:
        The record.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    path = Path(directory) / TASK_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return TaskRecord(**{**values, "labels": tuple(values["labels"])})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {TASK_FILE} in {path.parent}. Give the adapter directory that `coda train` wrote."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Copy it again from where the adapter was trained."
        ) from error
