"""What the user sees: messages on standard error, results on standard output."""

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

messages = Console(stderr=True, highlight=False)
results = Console(highlight=False)


def print_json(value: object) -> None:
    """Print one JSON object, unstyled."""
    print(json.dumps(value, indent=2))


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as a table; the first column is text, the others numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row.values())
    results.print(table)
