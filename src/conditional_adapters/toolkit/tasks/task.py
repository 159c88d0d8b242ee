"""What the library must know of a downstream task, and nothing more.

A `TaskKind` describes a task before there is a model: the columns of its data, and how to load a
model for it. A `Task` is such a model with all that is needed to train and to use it. Training
(`training.finetune`), prediction (`inference.predict`), saving (`bundle`) and the commands work on
any of them; `kinds` has one file for each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from ._data_spec import DataSpec
from ._reader import Column

if TYPE_CHECKING:
    import datasets
    from transformers import EvalPrediction

# What is predicted for one row, ready for JSON.
Prediction: TypeAlias = dict[str, Any]
# Columns of rows, or of encoded examples.
Columns: TypeAlias = Mapping[str, Sequence[Any]]
TrainerMetrics: TypeAlias = Callable[["EvalPrediction"], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The figure by which models for a task are compared.

    Attributes:
        name: Its name among what `Task.score` returns.
        is_error: Whether lower is better.
    """

    name: str
    is_error: bool = False


class Task(Protocol):
    """A model for one downstream task, and what turns rows into its input and its output back."""

    @property
    def name(self) -> str:
        """The name of its kind."""

    @property
    def model(self) -> PreTrainedModel:
        """A transformers model with the head of the task."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the model reads; the others hold what it shall predict."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty where nothing is classified."""

    @property
    def max_length(self) -> int | None:
        """Tokens of a text at most; None where the input has one size."""

    @property
    def chunk_size(self) -> int:
        """Rows that are encoded, and sorted by length, at a time."""

    @property
    def splits_rows(self) -> bool:
        """Whether a row may become several examples."""

    @property
    def trainer_metrics(self) -> TrainerMetrics | None:
        """What Trainer measures after each epoch, from logits; None means the loss alone."""

    @property
    def quality(self) -> Quality:
        """The figure by which models are compared."""

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Turn rows into examples: unpadded model input, with `labels` if there are targets.

        Args:
            rows: The columns of the task, with or without targets.

        Returns:
            One example for each row. If `splits_rows`, the column `row` says for each example, in
            ascending order, which row it is from.
        """

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad examples to the longest and stack what the model takes.

        Args:
            examples: At least one.

        Returns:
            Keyword arguments for the model.
        """

    def infer(self, batch: Mapping[str, Tensor]) -> Sequence[Any]:
        """Run the model.

        Args:
            batch: From `collate`, without targets, on the model's device.

        Returns:
            What the model says, in any form, for each example.
        """

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Turn the output of the model into predictions.

        Args:
            rows: The rows, without targets.
            examples: What `encode` made of them.
            outputs: What `infer` returned for each example.

        Returns:
            A prediction for each row.
        """

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compare predictions with targets.

        Args:
            predictions: One for each row.
            rows: Rows with targets.

        Returns:
            The metrics of the task by name.
        """

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Count what the quality is made of, row by row.

        Args:
            predictions: One for each row.
            rows: Rows with targets.

        Returns:
            The sum of the first column divided by that of the second is the quality, of all rows
            or of any part of them.
        """


class TaskDefaults:
    """What most tasks share; a `Task` that inherits from this says only what is different.

    Attributes:
        chunk_size: Rows that are encoded at a time.
        splits_rows: A row is one example.
        trainer_metrics: The loss alone, while training.
    """

    chunk_size: int = 1024
    splits_rows: bool = False
    trainer_metrics: TrainerMetrics | None = None


class TaskLoader(Protocol):
    """Loads a pretrained model for a task."""

    def __call__(
        self, model_name: str, labels: Sequence[str], *, max_length: int | None = None
    ) -> Task:
        """Load a model.

        Args:
            model_name: A local folder, a hub id, or a packaged model.
            labels: Class names; empty where nothing is classified.
            max_length: Cut texts at so many tokens; None means the model's limit.

        Returns:
            The task, its model in evaluation mode.
        """


class RowLoader(Protocol):
    """Reads and checks the data of a task."""

    def __call__(
        self, spec: DataSpec, *, labels: Sequence[str] | None, with_targets: bool
    ) -> "datasets.Dataset":
        """Read the rows.

        Args:
            spec: The source and how to read it.
            labels: The known class names; None means those of the source.
            with_targets: Whether to read what the model shall predict.

        Returns:
            The usable rows, with the columns of the task.
        """


def _no_labels(_rows: "datasets.Dataset") -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """A task before there is a model for it.

    Attributes:
        name: As transformers' pipelines call it.
        columns: `columns(labels)` describes what a row has; a target outside the labels is refused
            unless they are None.
        load_rows: Reads a data set.
        load: Loads a model.
        split_column: Rows with the same content in this column stay on one side of a split.
        labels_of: Finds the class names in training rows.
    """

    name: str
    columns: Callable[[Sequence[str] | None], tuple[Column, ...]]
    load_rows: RowLoader
    load: TaskLoader
    split_column: str
    labels_of: Callable[["datasets.Dataset"], tuple[str, ...]] = _no_labels
