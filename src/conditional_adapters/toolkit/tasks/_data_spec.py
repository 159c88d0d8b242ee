"""Where a data set is and how to read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Where a data set is and how to read it."""

    # A file (.csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt), a folder (of `save_to_disk`, or
    # class_name/image.png), a hub name ("imdb", "nyu-mll/glue:sst2"), or a packaged set
    # ("packaged:bbc", "packaged:bbc-headlines", "packaged:20newsgroups", "packaged:fashion-mnist",
    # "packaged:prompts").
    source: str
    text_column: str = "text"
    image_column: str = "image"
    label_column: str = "label"
    # What the source calls the other columns of a task: {"audio": "path"}.
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
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

    def column_of(self, role: str) -> str:
        """Return what the source calls a column.

        Args:
            role: What we call it: "text", "audio", ...

        Returns:
            Its name there, by default the same.
        """
        named = {
            "text": self.text_column,
            "image": self.image_column,
            "label": self.label_column,
        }
        return self.columns.get(role, named.get(role, role))


def column_option(role: str) -> str:
    """Return the option of the command line that names a column.

    Args:
        role: What we call the column.

    Returns:
        The option, for messages.
    """
    is_common = role in ("text", "image", "label")
    return f"--{role}-column" if is_common else f"--column {role}=NAME"
