"""Replace a file so that at every moment either the old or the new one is there, whole."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def replace_file(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `target`, flush it to disk, and rename it.

    Args:
        target: The file to make or replace; its folder must exist.
        write: Gets the path of the temporary file. If it fails, `target` stays as it was.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(permissions)  # the user's, whatever the writer has chosen
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(target: Path, text: str) -> None:
    """Replace a file by a text in UTF-8.

    Args:
        target: The file to make or replace; its folder must exist.
        text: The new content.
    """
    replace_file(target, lambda path: path.write_text(text, encoding="utf-8"))
