"""Checks of single cells of a data set: a text, a label or an image.

Each reader takes the value from the file format and returns it in normal form, or raises `BadRow`
with a reason that completes the sentence "reviews.csv:17: ...". Readers know neither file nor line;
`_reader` adds both and decides whether to stop.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

_LONGEST_QUOTE = 60  # characters of a wrong value that a message repeats
_LISTED_LABELS = 20  # known labels that a message lists


class FileCell(TypedDict):
    """An image or a recording as `datasets` stores it: the file's content or its absolute path."""

    bytes: bytes | None
    path: str | None


class BadRow(Exception):  # noqa: N818 - a skipped row is not an error
    """One row cannot be used; the message is the reason, without file and line."""


def read_text(value: object, noun: str = "text") -> str:
    """Return a text unchanged if it is not blank; messages call it by the noun."""
    require_content(value, noun)
    if not isinstance(value, str):
        raise BadRow(f"the {noun} is {quote(value)}, it must be a string")
    _require_utf8(value, noun)
    return value


def read_label(value: object, class_names: Sequence[str] | None) -> str:
    """Return the class name of a label: a name, or a number, which may index `class_names`."""
    require_content(value, "label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns integers to floats where a cell is missing
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"the label is {quote(value)}, it must be a string or an integer")
    if isinstance(value, str):
        _require_utf8(value, "label")
        return value.strip()
    if class_names is None:
        return str(value)
    if value == -1:  # `datasets` marks unlabelled rows with -1
        raise BadRow("the label is missing")
    if not 0 <= value < len(class_names):
        raise BadRow(f"the label is {value}, it must be between 0 and {len(class_names) - 1}")
    return class_names[value]


def require_known_label(label: str, known_labels: Sequence[str]) -> None:
    """Refuse a label outside a fixed list."""
    if label not in known_labels:
        listed = ", ".join(known_labels[:_LISTED_LABELS])
        more = ", ..." if len(known_labels) > _LISTED_LABELS else ""
        raise BadRow(f"the label {quote(label)} is not one of the known labels: {listed}{more}")


def read_file(value: object, folder: Path, noun: str) -> FileCell:
    """Return a path (relative to `folder`), bytes, or a mapping with either, in normal form."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    require_content(value, noun)
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, str):
        return {"bytes": None, "path": str(folder.absolute() / value)}
    raise BadRow(f"the {noun} is {quote(value)}, it must be a path or the bytes of a file")


def open_cell(cell: FileCell) -> io.BytesIO | str:
    """Return the content of a file as a stream, or its path."""
    content = cell["bytes"]
    return str(cell["path"]) if content is None else io.BytesIO(content)


def read_image(value: object, folder: Path) -> FileCell:
    """Return an image in normal form; it is decoded once, so a damaged file is found at once."""
    import PIL.Image

    cell = read_file(value, folder, "image")
    try:
        with PIL.Image.open(open_cell(cell)) as image:
            image.load()
    except PIL.UnidentifiedImageError:
        raise BadRow("the image cannot be read (no image, or of an unknown format)") from None
    # Pillow's decoders raise SyntaxError and ValueError for damaged content.
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise BadRow(f"the image cannot be read ({error})") from None
    return cell


def require_content(value: object, noun: str) -> None:
    """Refuse null, not-a-number, and empty or blank strings."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadRow(f"the {noun} is missing")
    if isinstance(value, str) and not value.strip():
        raise BadRow(f"the {noun} is empty")


def _require_utf8(value: str, noun: str) -> None:
    """Refuse surrogates, which stand for bytes that could not be decoded."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            f"the {noun} is not valid UTF-8 at character {error.start + 1}"
            " (the file may have another encoding; save it as UTF-8)"
        ) from None


def quote(value: object) -> str:
    """Show a wrong value in a message: shortened, with its type unless it is a string."""
    text = repr(value)
    shown = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."
    return shown if isinstance(value, str) else f"{shown} ({type(value).__name__})"
