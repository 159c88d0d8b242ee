"""Replace a file atomically: at any time either the old or the new content is complete."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def replace_file(target: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside `target`, flush it to disk, and rename it.

    Args:
        target: The file to create or replace; its folder must exist.
        write: Writes the file at the path that it gets. If it fails, `target` is unchanged.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(permissions)  # the user's default, not that of the writer
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(target: Path, text: str) -> None:
    """Replace the content of a file by a text in UTF-8, as `replace_file` does."""
    replace_file(target, lambda path: path.write_text(text, encoding="utf-8"))
