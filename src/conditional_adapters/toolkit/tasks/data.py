"""Read labelled texts or images from wherever they are into one normal form.

`load_rows` returns a `datasets.Dataset` with the columns `text` (a string), `image` (decoded to
RGB when it is read) or `audio`, and `label` (a `ClassLabel`), whatever the source calls them. Every
row is looked at once, here: an empty text or a damaged image is named by its file and line before
any training starts. `stream_rows` looks at each row when its turn comes, for data larger than
memory. `_sources` says what a source can be, `_cells` what a good cell is, `_reader` walks through
both.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._audio import AUDIO_COLUMN
from ._cells import ImageCell, read_image, read_label, require_known_label
from ._data_spec import DataSpec as DataSpec
from ._reader import (
    Column,
    Example,
    copy_cells,
    open_reader,
    skip_report,
    text_column,
    text_feature,
    usable_rows,
)
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
        The usable rows in their order, with the column `text`, `image` or `audio` and, if labels
        are required, `label`.

    Raises:
        DataError: If the source cannot be read, has no such column or no usable row, or has a bad
            row while `spec.on_bad_row` is "stop".
        AssetError: If a packaged set is not installed.
    """
    columns = classification_columns(modality, labels)[: 2 if require_labels else 1]
    reader = open_reader(spec, columns)
    table = reader.table
    bad_rows: list[str] = []
    examples = itertools.islice(usable_rows(spec, reader, bad_rows), spec.limit)
    if modality == "image" and table.dataset is not None:
        dataset, found = _refer_to_images(table.dataset, spec.image_column, examples)
    else:
        dataset, found = _copy_inputs(columns, examples)
    if bad_rows:
        warnings.warn(skip_report(spec.source, bad_rows, len(found)), stacklevel=2)
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
        reader = open_reader(self.spec, [_INPUTS[self.modality]])
        bad_rows: list[str] = []
        num_usable = 0
        for example in itertools.islice(usable_rows(self.spec, reader, bad_rows), self.spec.limit):
            num_usable += 1
            yield {self.modality: self._decode(example.cells[self.modality])}
        if bad_rows:
            warnings.warn(skip_report(self.spec.source, bad_rows, num_usable), stacklevel=2)

    def _decode(self, cell: Any) -> Any:  # noqa: ANN401
        if self.modality != "image":
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
    open_reader(spec, [_INPUTS[modality]])
    return RowStream(spec, modality)


def _image_feature() -> Any:  # noqa: ANN401
    """Return the type of an image, decoded to RGB when it is read."""
    import datasets

    return datasets.Image(mode="RGB")


def _read_image(value: object, table: Table, _name: str) -> ImageCell:
    return read_image(value, table.folder)


_INPUTS: Mapping[Modality, Column] = {
    "text": text_column(),
    "image": Column("image", _read_image, _image_feature),
    "audio": AUDIO_COLUMN,
}


def classification_columns(
    modality: Modality, labels: Sequence[str] | None
) -> tuple[Column, Column]:
    """Describe what the rows of a classification task have.

    Args:
        modality: What is classified.
        labels: The known classes; None allows any.

    Returns:
        The input and the class.
    """
    return _INPUTS[modality], _label_column(labels)


def _label_column(known_labels: Sequence[str] | None) -> Column:
    """Describe a column of classes; the normal form is the name of the class."""

    def read(value: object, table: Table, name: str) -> str:
        label = read_label(value, table.class_names.get(name))
        if known_labels is not None:
            require_known_label(label, known_labels)
        return label

    return Column("label", read, text_feature, is_target=True)


def _copy_inputs(
    columns: Sequence[Column], examples: Iterable[Example]
) -> tuple["datasets.Dataset", dict[int, str]]:
    """Collect examples in memory; return them with the label of each position."""
    dataset = copy_cells(columns, examples)
    if "label" not in dataset.column_names:
        return dataset, dict.fromkeys(range(len(dataset)), "")
    return dataset.remove_columns("label"), dict(enumerate(dataset["label"]))


def _refer_to_images(
    stored: "datasets.Dataset", column: str, examples: Iterable[Example]
) -> tuple["datasets.Dataset", dict[int, str]]:
    """Leave all images where they are; return them with the label of each usable position."""
    import datasets

    found = {example.position: str(example.cells.get("label", "")) for example in examples}
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
