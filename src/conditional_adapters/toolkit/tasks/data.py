"""Texts, images and recordings, with or without labels, from any source in one normal form.

`load_rows` returns a `datasets.Dataset` with a column `text` (a string), `image` (decoded to RGB
when it is read) or `audio`, and a column `label` (a `ClassLabel`), whatever their names in the
source. It checks every row, so an empty text or a damaged image is reported with its file and line
before training starts. `stream_rows` checks each row when it is read, for data larger than memory.
`_sources` opens sources, `_cells` checks cells, `_reader` combines both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._audio import AUDIO_COLUMN
from ._cells import FileCell, read_image, read_label, require_known_label
from ._data_spec import DataSpec as DataSpec
from ._reader import Column, Example, copy_cells, open_reader, text_column, text_feature
from ._split import split_train_test as split_train_test
from ._table import Table, in_label_order

if TYPE_CHECKING:
    import datasets

Modality = Literal["text", "image", "audio"]


def load_rows(
    spec: DataSpec,
    *,
    modality: Modality,
    labels: Sequence[str] | None = None,
    require_labels: bool = True,
) -> "datasets.Dataset":
    """Read and check a data set.

    Texts, and images inside files of rows, are copied into memory in Arrow format. Images in
    folders stay files, and those in a stored data set stay there. Nothing is written to disk
    except hub downloads, by `datasets`.

    Args:
        spec: The source and how to read it.
        modality: Input of the model.
        labels: Class names in order, as for a trained adapter. By default in the source's order
            or, without one, sorted: by number if all labels are integers, else by name.
        require_labels: Whether every row needs a label. If not, labels are not read.

    Returns:
        The usable rows, in order, with the column `text`, `image` or `audio` and, if labels are
        required, `label`.

    Raises:
        DataError: If the source cannot be read, has no such column or no usable row, or has a bad
            row while `spec.on_bad_row` is "stop".
        AssetError: If a packaged set is not installed.
    """
    columns = classification_columns(modality, labels)[: 2 if require_labels else 1]
    reader = open_reader(spec, columns)
    stored, source_names = reader.table.dataset, reader.table.class_names
    if modality == "image" and stored is not None:
        dataset, found = _refer_to_images(stored, spec.image_column, reader.examples())
    else:
        dataset, found = _copy_inputs(columns, reader.examples())
    reader.warn_of_skipped(len(found))
    if require_labels:
        class_names = labels if labels is not None else source_names.get(spec.label_column)
        dataset = _add_labels(dataset, found, class_names)
    return dataset.select(np.fromiter(found, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class RowStream:
    """The rows of a data set without labels, read anew in every epoch, for data beyond memory.

    Rows are those of `load_rows`, but checked when they are read. A bad row raises `DataError`, or
    is skipped and counted in a warning at the end of the epoch.

    Attributes:
        spec: The source and how to read it.
        modality: Input of the model.
    """

    spec: DataSpec
    modality: Modality

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the usable rows, in order."""
        reader = open_reader(self.spec, [_INPUTS[self.modality]])
        num_usable = 0
        for example in reader.examples():
            num_usable += 1
            yield {self.modality: self._decode(example.cells[self.modality])}
        reader.warn_of_skipped(num_usable)

    def _decode(self, cell: Any) -> Any:  # noqa: ANN401
        if self.modality != "image":
            return cell
        import datasets

        return datasets.Image(mode="RGB").decode_example(cell)


def stream_rows(spec: DataSpec, *, modality: Modality) -> RowStream:
    """Open a data set without labels for repeated streaming.

    Args:
        spec: The source and how to read it.
        modality: Input of the model.

    Returns:
        The rows, unchecked until they are read.

    Raises:
        DataError: If the source cannot be opened or has no such column.
    """
    open_reader(spec, [_INPUTS[modality]])
    return RowStream(spec, modality)


def _image_feature() -> Any:  # noqa: ANN401
    """Type of an image in a data set, decoded to RGB when it is read."""
    import datasets

    return datasets.Image(mode="RGB")


def _read_image(value: object, table: Table, _name: str) -> FileCell:
    return read_image(value, table.folder)


_INPUTS: Mapping[Modality, Column] = {
    "text": text_column(),
    "image": Column("image", _read_image, _image_feature),
    "audio": AUDIO_COLUMN,
}


def classification_columns(
    modality: Modality, labels: Sequence[str] | None
) -> tuple[Column, Column]:
    """Columns of a classification task: the input, and the name of its class."""

    def read(value: object, table: Table, name: str) -> str:
        label = read_label(value, table.class_names.get(name))
        if labels is not None:
            require_known_label(label, labels)
        return label

    return _INPUTS[modality], Column("label", read, text_feature, is_target=True)


def _copy_inputs(
    columns: Sequence[Column], examples: Iterable[Example]
) -> tuple["datasets.Dataset", dict[int, str]]:
    """Collect examples in memory; returns them and the label of each position."""
    dataset = copy_cells(columns, examples)
    if "label" not in dataset.column_names:
        return dataset, dict.fromkeys(range(len(dataset)), "")
    return dataset.remove_columns("label"), dict(enumerate(dataset["label"]))


def _refer_to_images(
    stored: "datasets.Dataset", column: str, examples: Iterable[Example]
) -> tuple["datasets.Dataset", dict[int, str]]:
    """Refer to stored images; returns all of them and the label of each usable position."""
    import datasets

    found = {example.position: str(example.cells.get("label", "")) for example in examples}
    images = stored.with_format(None).select_columns([column])
    if column != "image":
        images = images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(mode="RGB")), found


def _add_labels(
    dataset: "datasets.Dataset", found: Mapping[int, str], class_names: Sequence[str] | None
) -> "datasets.Dataset":
    """Add the column of class numbers, -1 at positions without a label."""
    import datasets

    names = in_label_order(found.values()) if class_names is None else list(class_names)
    numbers = {name: number for number, name in enumerate(names)}
    # An array: `datasets` hashes its arguments, and a list element by element.
    column = np.full(len(dataset), -1, dtype=np.int64)
    for position, label in found.items():
        column[position] = numbers[label]
    return dataset.add_column("label", column, feature=datasets.ClassLabel(names=names))
