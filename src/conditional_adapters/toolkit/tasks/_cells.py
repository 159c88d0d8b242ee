"""What one cell of a data set must be: a text, a label or an image.

Each reader takes the value as the file format delivers it, returns it in normal form, or raises
`BadRow` with a reason that completes the sentence "reviews.csv:17: ...". Readers know nothing of
files and lines; whoever walks through the rows adds the place and decides to stop or to go on.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

_LONGEST_QUOTE = 60  # characters of a wrong value that a message repeats
_LISTED_LABELS = 20  # known labels that a message lists


class ImageCell(TypedDict):
    """An image as `datasets.Image` stores it: the content of its file, or the absolute path."""

    bytes: bytes | None
    path: str | None


class BadRow(Exception):  # noqa: N818 - a row that is left out is no error
    """One row cannot be used; the message says why, without the place."""


def read_text(value: object, noun: str = "text") -> str:
    """Return a text unchanged if it has anything to read; messages call it by the noun."""
    require_content(value, noun)
    if not isinstance(value, str):
        raise BadRow(f"the {noun} is {quote(value)}, it must be a string")
    _require_utf8(value, noun)
    return value


def read_label(value: object, class_names: Sequence[str] | None) -> str:
    """Return the class name that a label stands for.

    Args:
        value: A class name, a whole number, or, where `class_names` is given, a position in it.
        class_names: The names behind numbered labels, as in a column of type `ClassLabel`.

    Returns:
        The name, without surrounding white space.

    Raises:
        BadRow: If the label is missing, of another type, or not the number of a class.
    """
    require_content(value, "label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns whole numbers to fractions where a cell is missing
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"the label is {quote(value)}, it must be a string or a whole number")
    if isinstance(value, str):
        _require_utf8(value, "label")
        return value.strip()
    if class_names is None:
        return str(value)
    if value == -1:  # how `datasets` marks a row without label
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


def read_image(value: object, folder: Path) -> ImageCell:
    """Return an image in the form in which `datasets.Image` stores it.

    The image is decoded once and dropped, so a damaged file is named before the work starts.

    Args:
        value: A path, the bytes of an image file, or a mapping with "bytes" or "path".
        folder: Where a relative path starts.

    Returns:
        The bytes if there are any, else the path; nothing stays decoded.

    Raises:
        BadRow: If there is no image, or it cannot be decoded.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    require_content(value, "image")
    if isinstance(value, bytes):
        _require_readable_image(io.BytesIO(value))
        return {"bytes": value, "path": None}
    if isinstance(value, str):
        path = folder.absolute() / value
        _require_readable_image(path)
        return {"bytes": None, "path": str(path)}
    raise BadRow(f"the image is {quote(value)}, it must be a path or the bytes of a file")


def require_content(value: object, noun: str) -> None:
    """Refuse what stands for nothing: null, not-a-number, empty and blank strings."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadRow(f"the {noun} is missing")
    if isinstance(value, str) and not value.strip():
        raise BadRow(f"the {noun} is empty")


def _require_utf8(value: str, noun: str) -> None:
    """Refuse the half characters that stand for undecodable bytes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            f"the {noun} is not valid UTF-8 at character {error.start + 1}"
            " (the file may have another encoding; save it as UTF-8)"
        ) from None


def _require_readable_image(file: Path | io.BytesIO) -> None:
    """Decode an image completely and forget it."""
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            image.load()
    except PIL.UnidentifiedImageError:
        raise BadRow("the image cannot be read (no image, or of an unknown format)") from None
    # The decoders of Pillow raise SyntaxError and ValueError for damaged content.
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise BadRow(f"the image cannot be read ({error})") from None


def quote(value: object) -> str:
    """Show a wrong value in a message: shortened, with its type unless it is a string."""
    text = repr(value)
    shown = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."
    return shown if isinstance(value, str) else f"{shown} ({type(value).__name__})"
