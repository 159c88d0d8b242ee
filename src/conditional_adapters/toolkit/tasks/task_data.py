"""Loading and splitting of the data of any task."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ._data_spec import DataSpec
from ._reader import Column, copy_cells, open_reader
from ._split import split_train_test
from .task import RowLoader, TaskKind

if TYPE_CHECKING:
    import datasets


def load_task_rows(
    kind: TaskKind,
    spec: DataSpec,
    *,
    labels: Sequence[str] | None = None,
    with_targets: bool = True,
) -> "datasets.Dataset":
    """Read and check a data set for a task.

    Args:
        kind: The task.
        spec: The source and how to read it.
        labels: Class names of a trained model; None means those of the source.
        with_targets: Whether to read the columns that the model predicts.

    Returns:
        The usable rows, in order, with the columns of the task.

    Raises:
        ConfigError: If `spec.columns` names a column that the task does not have.
        DataError: If the source cannot be read, has no such column or no usable row, or has a bad
            row while `spec.on_bad_row` is "stop".
        AssetError: If a packaged set is not installed.
    """
    roles = [column.role for column in kind.columns(None)]
    for role in spec.columns:
        if role not in roles:
            raise ConfigError(
                f"{kind.name} has no column {role!r}. Its columns are {', '.join(roles)}."
            )
    return kind.load_rows(spec, labels=labels, with_targets=with_targets)


def split_rows(
    kind: TaskKind, rows: "datasets.Dataset", *, test_size: int | float, seed: int
) -> tuple["datasets.Dataset", "datasets.Dataset"]:
    """Split the data of a task at random, stratified by `label` if there is one.

    Args:
        kind: The task; examples with equal content in its `split_column` stay together.
        rows: From `load_task_rows`.
        test_size: Size of the test part: examples (int, >= 1) or share of all (float, 0 to 1).
        seed: The same seed gives the same parts.

    Returns:
        The training and the test part, both shuffled.

    Raises:
        ConfigError: If `test_size` leaves a side without an example.
        DataError: If all examples, or all of a class, have the same content.
    """
    return split_train_test(rows, test_size=test_size, seed=seed, same=kind.split_column)


def row_loader(
    columns: Callable[[Sequence[str] | None], tuple[Column, ...]],
    check: Callable[[Mapping[str, Any]], None] = lambda cells: None,
) -> RowLoader:
    """Make the loader of a task whose cells are copied into memory."""

    def load(
        spec: DataSpec, *, labels: Sequence[str] | None, with_targets: bool
    ) -> "datasets.Dataset":
        wanted = [column for column in columns(labels) if with_targets or not column.is_target]
        reader = open_reader(spec, wanted, check)
        dataset = copy_cells(wanted, reader.examples())
        reader.warn_of_skipped(len(dataset), stacklevel=4)
        return dataset

    return load
