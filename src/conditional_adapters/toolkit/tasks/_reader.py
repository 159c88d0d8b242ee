"""Walk through the rows of a source: check every cell, name or leave out the bad ones.

What a cell must be is said by a `Column`. A bad row is one whose reader raises `BadRow`; the place
and the remedy are added here, so no reader knows of files and lines.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        role: What we call it.
        read: `read(value, table, name)` returns a cell in normal form or raises `BadRow`; `name`
            is what the table calls the column.
        feature: Makes the type that the normal form has in a `datasets.Dataset`.
        is_target: Whether it is what the model shall predict.
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
    """Turn the rows of one table into examples."""

    table: Table
    columns: Mapping[str, str]  # role -> name in the source
    readers: Sequence[Column]
    check: Callable[[Mapping[str, Any]], None]  # raises `BadRow` if cells do not fit each other

    def rows(self) -> Iterator[Row]:
        """Read the rows, with the wanted columns only where the source can do that."""
        return self.table.read(tuple(dict.fromkeys(self.columns.values())))

    def example(self, position: int, row: Row) -> Example:
        """Check one row; raise `BadRow` if it cannot be used."""
        if row.problem:
            raise BadRow(row.problem)
        cells = {
            column.role: column.read(
                self._cell(row, column.role), self.table, self.columns[column.role]
            )
            for column in self.readers
        }
        self.check(cells)
        return Example(position, cells)

    def _cell(self, row: Row, role: str) -> object:
        """Pick a cell; only rows of JSON lines can lack one."""
        column = self.columns[role]
        if column not in row.cells:
            fields = ", ".join(map(repr, row.cells)) or "none"
            raise BadRow(
                f"there is no field {column!r} (fields: {fields}; choose one with "
                f"{column_option(role)})"
            )
        return row.cells[column]


def text_feature() -> Any:  # noqa: ANN401
    """Return the type of a text."""
    import datasets

    return datasets.Value("string")


def text_column(role: str = "text", *, is_target: bool = False) -> Column:
    """Describe a column of texts.

    Args:
        role: What we call it.
        is_target: Whether it is what the model shall predict.

    Returns:
        The column.
    """

    def read(value: object, _table: Table, _name: str) -> str:
        return read_text(value, role)

    return Column(role, read, text_feature, is_target)


def open_reader(
    spec: DataSpec,
    columns: Sequence[Column],
    check: Callable[[Mapping[str, Any]], None] = lambda cells: None,
) -> RowReader:
    """Open a source and see that it has the columns.

    Args:
        spec: The source and how to read it.
        columns: What is wanted.
        check: `check(cells)` raises `BadRow` if the cells of a row do not fit each other.

    Returns:
        A reader of its rows.

    Raises:
        DataError: If the source cannot be opened or has no such column.
    """
    names = {column.role: spec.column_of(column.role) for column in columns}
    table = open_source(spec.source, spec.split)
    for role, name in names.items():
        if table.columns is not None and name not in table.columns:
            raise DataError(
                f"{spec.source} has no column {name!r}. It has: {', '.join(table.columns)}."
                f" Choose one with {column_option(role)}."
            )
    return RowReader(table, names, columns, check)


def usable_rows(spec: DataSpec, reader: RowReader, bad_rows: list[str]) -> Iterator[Example]:
    """Yield the usable rows; stop at a bad one or add its place and reason to `bad_rows`."""
    is_any_usable = False
    for position, row in enumerate(reader.rows()):
        try:
            example = reader.example(position, row)
        except BadRow as reason:
            bad_rows.append(f"{row.place}: {reason}")
            if spec.on_bad_row == "stop":
                remedy = "Fix the row, or pass --on-bad-row skip to leave out such rows."
                raise DataError(f"{bad_rows[-1]}. {remedy}") from None
        else:
            is_any_usable = True
            yield example
    if not is_any_usable:
        report = skip_report(spec.source, bad_rows, 0) if bad_rows else "It has no rows at all."
        raise DataError(f"{spec.source} has no usable row. {report}")


def skip_report(source: str, bad_rows: Sequence[str], num_usable: int) -> str:
    """Tell how many rows were left out, and why the first ones."""
    listed = [*bad_rows[:_LISTED_ROWS], "..."] if len(bad_rows) > _LISTED_ROWS else bad_rows
    total = num_usable + len(bad_rows)
    return "\n  ".join([f"{source}: left out {len(bad_rows)} of {total} rows:", *listed])


def copy_cells(columns: Sequence[Column], examples: Iterable[Example]) -> "datasets.Dataset":
    """Collect examples in memory.

    NOTE: not `Dataset.from_generator`. Its cache is keyed by the arguments, so it would return old
    rows for a changed file and would not run the checks a second time. Arrow chunks need no more
    memory than the file has bytes.

    Args:
        columns: What the examples have.
        examples: At least one.

    Returns:
        One row for each of them.
    """
    import datasets

    features = datasets.Features({column.role: column.feature() for column in columns})
    remaining = iter(examples)
    chunks = []
    while chunk := list(itertools.islice(remaining, _CHUNK_SIZE)):
        cells = {role: [example.cells[role] for example in chunk] for role in features}
        chunks.append(datasets.Dataset.from_dict(cells, features=features))
    return datasets.concatenate_datasets(chunks)
