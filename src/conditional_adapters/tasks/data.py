"""Read labelled texts or images from wherever they are into one normal form.

`load_rows` returns a `datasets.Dataset` with the columns `text` (a string) or `image` (decoded to
RGB when it is read) and `label` (a `ClassLabel`), whatever the source calls them. Every row is
looked at once, here: an empty text or a damaged image is named by its file and line before any
training starts. `stream_rows` looks at each row when its turn comes, for data larger than memory.
`_sources` says what a source can be, `_cells` what a good cell is.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ConfigError, DataError
from ._cells import BadRow, read_image, read_label, read_text, require_known_label
from ._sources import open_source
from ._split import split_train_test as split_train_test
from ._table import Row, Table, in_label_order

if TYPE_CHECKING:
    import datasets

Modality = Literal["text", "image"]

_CHUNK_SIZE = 1000  # rows that are Python objects at the same time
_LISTED_ROWS = 5  # bad rows that a message lists


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Where a data set is and how to read it."""

    # A file (.csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt), a folder (of `save_to_disk`, or
    # class_name/image.png), a hub name ("imdb", "nyu-mll/glue:sst2"), or "packaged:bbc",
    # "packaged:fashion-mnist".
    source: str
    text_column: str = "text"
    image_column: str = "image"
    label_column: str = "label"
    # The part to read. Needed where the source has several, refused where it has none.
    split: str | None = None
    # What to do with a row that cannot be used: raise, or leave it out and warn.
    on_bad_row: Literal["stop", "skip"] = "stop"
    # Stop reading after so many usable rows, >= 1. NOTE: sources are often sorted by class; for a
    # small balanced set read all rows and take one part of `split_train_test`.
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row must be 'stop' or 'skip', got {self.on_bad_row!r}.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(
                f"limit must be at least 1, got {self.limit}. Leave it out to read all rows."
            )


def load_rows(
    spec: DataSpec,
    *,
    modality: Modality,
    labels: Sequence[str] | None = None,
    require_labels: bool = True,
) -> "datasets.Dataset":
    """Read and check a data set.

    Texts, and images in single files, are copied into memory in compact (Arrow) form; images in
    an image folder stay files, and those in a stored data set stay where they are. Nothing is
    written to disk except what `datasets` keeps of a hub download.

    Args:
        spec: The source and how to read it.
        modality: What the rows hold.
        labels: The class names in their order, as a trained adapter knows them. By default the
            source's own order; without one, by number if all labels are whole numbers, else by
            name.
        require_labels: Whether every row needs a label. If not, labels are not read at all.

    Returns:
        The usable rows in their order, with the columns `text` or `image` and, if labels are
        required, `label`.

    Raises:
        DataError: If the source cannot be read, has no such column or no usable row, or has a bad
            row while `spec.on_bad_row` is "stop".
        AssetError: If a packaged set is not installed.
    """
    reader = _open_reader(spec, modality, labels, with_labels=require_labels)
    table = reader.table
    bad_rows: list[str] = []
    examples = itertools.islice(_usable_rows(spec, reader, bad_rows), spec.limit)
    if modality == "image" and table.dataset is not None:
        dataset, found = _refer_to_images(table.dataset, spec.image_column, examples)
    else:
        dataset, found = _copy_cells(modality, examples)
    if bad_rows:
        warnings.warn(_skip_report(spec.source, bad_rows, len(found)), stacklevel=2)
    if require_labels:
        class_names = labels if labels is not None else table.class_names.get(spec.label_column)
        dataset = _add_labels(dataset, found, class_names)
    return dataset.select(np.fromiter(found, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class RowStream:
    """The rows of a data set without labels, read anew in every pass: for data beyond memory.

    Rows are as those of `load_rows`, checked when their turn comes. A bad row raises `DataError`
    then, or is left out and counted in a warning at the end of the pass.

    Attributes:
        spec: The source and how to read it.
        modality: What the rows hold.
    """

    spec: DataSpec
    modality: Modality

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the usable rows in their order."""
        reader = _open_reader(self.spec, self.modality)
        bad_rows: list[str] = []
        num_usable = 0
        for example in itertools.islice(_usable_rows(self.spec, reader, bad_rows), self.spec.limit):
            num_usable += 1
            yield {self.modality: self._decode(example.cell)}
        if bad_rows:
            warnings.warn(_skip_report(self.spec.source, bad_rows, num_usable), stacklevel=2)

    def _decode(self, cell: Any) -> Any:  # noqa: ANN401
        if self.modality == "text":
            return cell
        import datasets

        return datasets.Image(mode="RGB").decode_example(cell)


def stream_rows(spec: DataSpec, *, modality: Modality) -> RowStream:
    """Open a data set without labels to be read again and again, never whole.

    Args:
        spec: The source and how to read it.
        modality: What the rows hold.

    Returns:
        The rows.

    Raises:
        DataError: If the source cannot be opened or has no such column; what is wrong with a row
            is found when it is read.
    """
    _open_reader(spec, modality)
    return RowStream(spec, modality)


@dataclass(frozen=True, slots=True)
class _Example:
    """A usable row."""

    position: int  # of its row in the source, from 0
    cell: object  # a text, or an image in stored form
    label: str  # the name of its class; empty if labels are not read


@dataclass(frozen=True, slots=True)
class _RowReader:
    """Turn the rows of one table into examples."""

    table: Table
    columns: Mapping[str, str]  # "text" or "image", and "label" if wanted -> name in the source
    known_labels: Sequence[str] | None

    def rows(self) -> Iterator[Row]:
        """Read the rows, with the wanted columns only where the source can do that."""
        return self.table.read(tuple(self.columns.values()))

    def example(self, position: int, row: Row) -> _Example:
        """Check one row; raise `BadRow` if it cannot be used."""
        if row.problem:
            raise BadRow(row.problem)
        if "text" in self.columns:
            cell: object = read_text(self._cell(row, "text"))
        else:
            cell = read_image(self._cell(row, "image"), self.table.folder)
        return _Example(position, cell, self._label(row) if "label" in self.columns else "")

    def _label(self, row: Row) -> str:
        """Read the name of the class."""
        class_names = self.table.class_names.get(self.columns["label"])
        label = read_label(self._cell(row, "label"), class_names)
        if self.known_labels is not None:
            require_known_label(label, self.known_labels)
        return label

    def _cell(self, row: Row, role: str) -> object:
        """Pick a cell; only rows of JSON lines can lack one."""
        column = self.columns[role]
        if column not in row.cells:
            fields = ", ".join(map(repr, row.cells)) or "none"
            raise BadRow(
                f"there is no field {column!r} (fields: {fields}; choose one with --{role}-column)"
            )
        return row.cells[column]


def _open_reader(
    spec: DataSpec,
    modality: Modality,
    labels: Sequence[str] | None = None,
    *,
    with_labels: bool = False,
) -> _RowReader:
    """Open a source and see that it has the columns."""
    columns: dict[str, str] = {
        modality: spec.text_column if modality == "text" else spec.image_column
    }
    if with_labels:
        columns["label"] = spec.label_column
    table = open_source(spec.source, spec.split)
    _require_columns(spec.source, table, columns)
    return _RowReader(table, columns, labels)


def _require_columns(source: str, table: Table, columns: Mapping[str, str]) -> None:
    """Refuse a table that lacks a wanted column."""
    for role, column in columns.items():
        if table.columns is not None and column not in table.columns:
            raise DataError(
                f"{source} has no column {column!r}. It has: {', '.join(table.columns)}."
                f" Choose one with --{role}-column."
            )


def _usable_rows(spec: DataSpec, reader: _RowReader, bad_rows: list[str]) -> Iterator[_Example]:
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
        report = _skip_report(spec.source, bad_rows, 0) if bad_rows else "It has no rows at all."
        raise DataError(f"{spec.source} has no usable row. {report}")


def _skip_report(source: str, bad_rows: Sequence[str], num_usable: int) -> str:
    """Tell how many rows were left out, and why the first ones."""
    listed = [*bad_rows[:_LISTED_ROWS], "..."] if len(bad_rows) > _LISTED_ROWS else bad_rows
    total = num_usable + len(bad_rows)
    return "\n  ".join([f"{source}: left out {len(bad_rows)} of {total} rows:", *listed])


def _copy_cells(
    modality: Modality, examples: Iterable[_Example]
) -> tuple["datasets.Dataset", dict[int, str]]:
    """Collect examples in memory; return them with the label of each position.

    NOTE: not `Dataset.from_generator`. Its cache is keyed by the arguments, so it would return old
    rows for a changed file and would not run the checks a second time. Arrow chunks need no more
    memory than the file has bytes.
    """
    import datasets

    kind = datasets.Value("string") if modality == "text" else datasets.Image(mode="RGB")
    features = datasets.Features({modality: kind})
    remaining = iter(examples)
    chunks, labels = [], []
    while chunk := list(itertools.islice(remaining, _CHUNK_SIZE)):
        cells = {modality: [example.cell for example in chunk]}
        chunks.append(datasets.Dataset.from_dict(cells, features=features))
        labels += [example.label for example in chunk]
    return datasets.concatenate_datasets(chunks), dict(enumerate(labels))


def _refer_to_images(
    stored: "datasets.Dataset", column: str, examples: Iterable[_Example]
) -> tuple["datasets.Dataset", dict[int, str]]:
    """Leave all images where they are; return them with the label of each usable position."""
    import datasets

    found = {example.position: example.label for example in examples}
    images = stored.with_format(None).select_columns([column])
    if column != "image":
        images = images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(mode="RGB")), found


def _add_labels(
    dataset: "datasets.Dataset", found: Mapping[int, str], class_names: Sequence[str] | None
) -> "datasets.Dataset":
    """Add the column of class numbers; positions without label get -1."""
    import datasets

    names = in_label_order(found.values()) if class_names is None else list(class_names)
    numbers = {name: number for number, name in enumerate(names)}
    # An array: `datasets` hashes its arguments, and a list element by element.
    column = np.full(len(dataset), -1, dtype=np.int64)
    for position, label in found.items():
        column[position] = numbers[label]
    return dataset.add_column("label", column, feature=datasets.ClassLabel(names=names))
