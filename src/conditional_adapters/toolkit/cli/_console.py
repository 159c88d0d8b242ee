"""Console output: messages on standard error, results on standard output."""

import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

_WIDTH = None if sys.stdout.isatty() else 110  # columns of tables in files and logs

messages = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, width=_WIDTH)


def print_json(value: object) -> None:
    """Print one JSON object, unstyled."""
    print(json.dumps(value, indent=2))


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as a table of a text column and columns of numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    results.print(table)


def print_metrics(title: str, num_rows: int, metrics: Mapping[str, float]) -> None:
    """Print metrics on a data set as a table of one row."""
    row = {"rows": f"{num_rows:,}"}
    row |= {name.replace("_", " "): f"{value:.2%}" for name, value in metrics.items()}
    print_table(title, [row])


def format_p_value(value: float) -> str:
    """Format a p-value for a table."""
    return "p < 0.01" if value < 0.01 else f"p = {value:.2f}"
