"""Interface of a downstream task.

A `TaskKind` describes a task without a model: the columns of its data and the loader of its model.
A `Task` is a loaded model with its encoding, decoding and metrics. Training (`training.finetune`),
prediction (`inference.predict`), saving (`bundle`) and the commands work on every task; `kinds` has
one file for each.
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

# Prediction for one row, ready for JSON.
Prediction: TypeAlias = dict[str, Any]
# Columns of rows, or of encoded examples.
Columns: TypeAlias = Mapping[str, Sequence[Any]]
TrainerMetrics: TypeAlias = Callable[["EvalPrediction"], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The metric by which models for a task are compared.

    Attributes:
        name: Its key in the result of `Task.score`.
        is_error: Whether lower is better.
    """

    name: str
    is_error: bool = False


class Task(Protocol):
    """A model for one downstream task, with its encoding, decoding and metrics."""

    @property
    def name(self) -> str:
        """The name of its kind."""

    @property
    def model(self) -> PreTrainedModel:
        """A transformers model with the head of the task."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input columns; the other columns are targets."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty if there are no classes."""

    @property
    def max_length(self) -> int | None:
        """Tokens at which texts are cut; None if the input has a fixed size."""

    @property
    def chunk_size(self) -> int:
        """Number of rows that are encoded, and sorted by length, at a time."""

    @property
    def splits_rows(self) -> bool:
        """Whether a row may become several examples."""

    @property
    def trainer_metrics(self) -> TrainerMetrics | None:
        """Metrics that Trainer computes from logits after each epoch; None means only the loss."""

    @property
    def quality(self) -> Quality:
        """The metric by which models are compared."""

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Convert rows to examples: unpadded model input, with `labels` if there are targets.

        Args:
            rows: The columns of the task, with or without targets.

        Returns:
            One example per row. If `splits_rows`, one or more, and the column `row` has the row of
            each example, in ascending order.
        """

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack examples, at least one, to keyword arguments for the model."""

    def infer(self, batch: Mapping[str, Tensor]) -> Sequence[Any]:
        """Run the model on a batch without targets; returns one output of any form per example."""

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Convert the output of the model to predictions.

        Args:
            rows: The rows, without targets.
            examples: The result of `encode` for them.
            outputs: The result of `infer` for each example.

        Returns:
            One prediction per row.
        """

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute the metrics of the task, by name, from one prediction per row with targets."""

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Compute numerator and denominator of the quality for each row.

        Args:
            predictions: One per row.
            rows: Rows with targets.

        Returns:
            For any subset of rows, the sum of the first column divided by the sum of the second is
            the quality.
        """


class TaskDefaults:
    """Default values of a `Task`: one example per row, and only the loss while training."""

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
            labels: Class names; empty if there are no classes.
            max_length: Cut texts at this number of tokens; None means the model's limit.

        Returns:
            The task, its model in evaluation mode.

        Raises:
            ConfigError: If there is no such model, or a number is out of range.
            UnsupportedArchitectureError: If the model cannot have the head of the task.
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
            with_targets: Whether to read the targets.

        Returns:
            The usable rows, with the columns of the task.
        """


def _no_labels(_rows: "datasets.Dataset") -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """A task without a model.

    Attributes:
        name: The name of its pipeline in transformers.
        columns: `columns(labels)` returns the columns of a row; unless labels are None, a target
            outside them is refused.
        load_rows: Reads a data set.
        load: Loads a model.
        split_column: Rows with equal content in this column stay on one side of a split.
        labels_of: Returns the class names of training rows.
    """

    name: str
    columns: Callable[[Sequence[str] | None], tuple[Column, ...]]
    load_rows: RowLoader
    load: TaskLoader
    split_column: str
    labels_of: Callable[["datasets.Dataset"], tuple[str, ...]] = _no_labels
