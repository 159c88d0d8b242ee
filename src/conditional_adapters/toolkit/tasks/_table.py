"""A data set of any kind as a stream of rows.

A `Table` knows its columns and, if the source has them, its class names. Each row carries its file
and line for messages, so one loop in `_reader` checks the rows of all sources.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets

_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source, unchecked."""

    place: str  # for messages: "reviews.csv:17", "imdb, row 17" or "pets/cat/3.png"
    cells: Mapping[str, object]
    problem: str = ""  # why the row could not be parsed; it then has no cells


@dataclass(frozen=True, kw_only=True)
class Table:
    """An opened data set."""

    # Reads the rows from the start, and only the given columns if the source supports that.
    read: Callable[[Sequence[str]], Iterator[Row]]
    columns: Sequence[str] | None  # None: each row has its own columns
    class_names: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  # by column of class numbers
    folder: Path = Path()  # where relative paths to images start
    dataset: "datasets.Dataset | None" = None  # set if the rows are those of a stored data set


def class_names(features: "datasets.Features") -> dict[str, Sequence[str]]:
    """Class names of every column of type `ClassLabel`, or of lists of it."""
    import datasets

    kinds = {name: getattr(kind, "feature", kind) for name, kind in features.items()}
    return {
        name: kind.names for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)
    }


def in_label_order(names: Iterable[str]) -> list[str]:
    """Sort class names: as numbers if all of them are integers, else as strings."""
    distinct = sorted(set(names))
    if all(_WHOLE_NUMBER.fullmatch(name) for name in distinct):
        return sorted(distinct, key=int)
    return distinct
