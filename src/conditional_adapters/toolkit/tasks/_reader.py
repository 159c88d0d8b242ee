"""Reader of a source: checks every cell, and reports or skips bad rows.

A `Column` defines a valid cell. A row is bad if a reader raises `BadRow`; file, line and
remedy are added to the message here.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ._cells import BadRow, read_text
from ._data_spec import DataSpec, column_option
from ._sources import open_source
from ._table import Row, Table

if TYPE_CHECKING:
    import datasets

_CHUNK_SIZE = 1000  # rows that are Python objects at the same time
_LISTED_ROWS = 5  # bad rows that a message lists


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a task needs.

    Attributes:
        role: Its name in the task.
        read: `read(value, table, name)` returns a cell in normal form or raises `BadRow`; `name`
            is the column's name in the table.
        feature: Returns the type of the normal form in a `datasets.Dataset`.
        is_target: Whether the model predicts it.
    """

    role: str
    read: Callable[[object, Table, str], object]
    feature: Callable[[], Any]
    is_target: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A usable row."""

    position: int  # of its row in the source, from 0
    cells: Mapping[str, object]  # in normal form, by role


@dataclass(frozen=True, slots=True)
class RowReader:
    """Converter from the rows of one table to examples."""

    spec: DataSpec
    table: Table
    columns: Sequence[Column]
    check: Callable[[Mapping[str, Any]], None]  # raises `BadRow` if cells do not fit each other
    bad_rows: list[str] = field(default_factory=list)  # skipped so far: place and reason

    def examples(self) -> Iterator[Example]:
        """Yield up to `spec.limit` examples; raise at a bad row, or skip it."""
        names = tuple(dict.fromkeys(self.spec.column_of(c.role) for c in self.columns))
        num_usable = 0
        for position, row in enumerate(self.table.read(names)):
            try:
                example = self._example(position, row)
            except BadRow as reason:
                self.bad_rows.append(f"{row.place}: {reason}")
                if self.spec.on_bad_row == "stop":
                    remedy = "Fix the row, or pass --on-bad-row skip to skip bad rows."
                    raise DataError(f"{self.bad_rows[-1]}. {remedy}") from None
                continue
            yield example
            num_usable += 1
            if num_usable == self.spec.limit:
                break
        if not num_usable:
            report = self._skip_report(0) if self.bad_rows else "It has no rows at all."
            raise DataError(f"{self.spec.source} has no usable row. {report}")

    def warn_of_skipped(self, num_usable: int, *, stacklevel: int = 3) -> None:
        """Warn of skipped rows, if any; `stacklevel` must point at the user's call."""
        if self.bad_rows:
            warnings.warn(self._skip_report(num_usable), stacklevel=stacklevel)

    def _skip_report(self, num_usable: int) -> str:
        """Number of skipped rows, and the reasons for the first ones."""
        listed, total = self.bad_rows[:_LISTED_ROWS], num_usable + len(self.bad_rows)
        first = f"{self.spec.source}: skipped {len(self.bad_rows)} of {total} rows:"
        more = ["..."] if len(self.bad_rows) > _LISTED_ROWS else []
        return "\n  ".join([first, *listed, *more])

    def _example(self, position: int, row: Row) -> Example:
        if row.problem:
            raise BadRow(row.problem)
        cells = {}
        for column in self.columns:
            name = self.spec.column_of(column.role)
            if name not in row.cells:  # only in JSON lines
                fields = ", ".join(map(repr, row.cells)) or "none"
                raise BadRow(
                    f"there is no field {name!r} (fields: {fields}; choose one with "
                    f"{column_option(column.role)})"
                )
            cells[column.role] = column.read(row.cells[name], self.table, name)
        self.check(cells)
        return Example(position, cells)


def text_feature() -> Any:  # noqa: ANN401
    """Type of a text in a data set."""
    import datasets

    return datasets.Value("string")


def text_column(role: str = "text", *, is_target: bool = False) -> Column:
    """Make a column of texts."""

    def read(value: object, _table: Table, _name: str) -> str:
        return read_text(value, role)

    return Column(role, read, text_feature, is_target)


def open_reader(
    spec: DataSpec,
    columns: Sequence[Column],
    check: Callable[[Mapping[str, Any]], None] = lambda cells: None,
) -> RowReader:
    """Open a source and check that it has the columns.

    `check(cells)` raises `BadRow` if the cells of a row do not fit each other.
    """
    table = open_source(spec.source, spec.split)
    for column in columns:
        name = spec.column_of(column.role)
        if table.columns is not None and name not in table.columns:
            raise DataError(
                f"{spec.source} has no column {name!r}. It has: {', '.join(table.columns)}."
                f" Choose one with {column_option(column.role)}."
            )
    return RowReader(spec, table, columns, check)


def copy_cells(columns: Sequence[Column], examples: Iterable[Example]) -> "datasets.Dataset":
    """Collect examples, at least one, in memory.

    NOTE: not `Dataset.from_generator`. Its cache is keyed by the arguments, so it would return
    stale rows for a changed file and skip the checks the second time. Arrow chunks take no
    more memory than the file.
    """
    import datasets

    features = datasets.Features({column.role: column.feature() for column in columns})
    remaining = iter(examples)
    chunks = []
    while chunk := list(itertools.islice(remaining, _CHUNK_SIZE)):
        cells = {role: [example.cells[role] for example in chunk] for role in features}
        chunks.append(datasets.Dataset.from_dict(cells, features=features))
    return datasets.concatenate_datasets(chunks)
