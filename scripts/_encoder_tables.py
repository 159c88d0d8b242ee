"""Tables of encoders for the benchmark page, and helpers that all its tables share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

_ENCODER_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "milliseconds": ("ms", lambda value: f"{value['median']:.0f}"),
    "times_faster": ("speed-up over dense adapters", "{:.2f}x".format),
    "flop_ratio": ("FLOP ratio", "{:.2f}x".format),
    "share_of_flop_ratio": ("speed-up / FLOP ratio", "{:.2f}".format),
    "time_over_floor": ("over lower bound", "{:.2f}".format),
    "flop_ratio_of_forward": ("FLOP ratio of the forward pass", "{:.2f}x".format),
    "peak_megabytes": ("MB", "{}".format),
    "share_of_peak_memory": ("share of memory", "{:.2f}".format),
}
_REFERENCE = "dense + adapter"


def encoder_tables(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each model, type and kind: all columns for one shape, fewer for several."""
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for key, report in reports.items():
        model, dtype, shape, kind = key.split(", ", 3)
        groups.setdefault((model, dtype, kind), {})[shape] = report
    tables = []
    for (model, dtype, kind), cells in groups.items():
        first = next(iter(cells.values()))
        shapes = next(iter(cells)) if len(cells) == 1 else f"{len(cells)} shapes"
        body = _one_cell(first) if len(cells) == 1 else _cells(cells)
        name = kind.replace("packed", "prepacked")
        about = f"{model}, {dtype}, {shapes}, {name}{_how(first)}, {_describe_all(cells)}"
        tables.append(f"{about}\n\n{body}")
    return "\n\n".join(tables)


def _how(report: Mapping[str, Any]) -> str:
    """The attention implementation and the allocator, where the report has them."""
    text = f", {report['attention']} attention" if "attention" in report else ""
    allocator = report.get("allocator")
    if allocator is None:
        return text
    parts = [allocator["library"], *allocator["preloaded"], allocator["tunables"]]
    parts += ["freed pages kept"] if allocator["keeps_freed_pages"] else []
    return f"{text}, allocator: {' + '.join(part for part in parts if part)}"


def _one_cell(report: Mapping[str, Any]) -> str:
    """A row for each candidate; training steps have memory in place of the lower bound."""
    rows = report["results"]
    keys = [key for key in _ENCODER_COLUMNS if key in next(iter(rows.values()))]
    heads = ["encoder", *(_ENCODER_COLUMNS[key][0] for key in keys)]
    return table(
        heads,
        [
            (name, *(_ENCODER_COLUMNS[key][1](row[key]) for key in keys))
            for name, row in rows.items()
        ],
    )


def _cells(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each shape, the smallest first."""
    shapes = sorted(cells, key=_size)
    names = [name for name in cells[shapes[0]]["results"] if name.startswith("conditional")]
    is_step = "peak_megabytes" in cells[shapes[0]]["results"][_REFERENCE]
    last = "share_of_peak_memory" if is_step else "time_over_floor"
    ratio = "flop_ratio_of_forward" if is_step else "flop_ratio"
    rows = []
    for shape in shapes:
        results = cells[shape]["results"]
        row = [shape, f"{results[_REFERENCE]['milliseconds']['median']:.0f}"]
        row += [] if is_step else [f"{results[_REFERENCE]['time_over_floor']:.2f}"]
        for name in names:
            found = results.get(name)
            if found is None:
                row.append("")
                continue
            share = found["times_faster"] / found[ratio]
            row.append(
                f"{found['times_faster']:.2f}x of {found[ratio]:.2f}x, {share:.2f}, "
                f"{found[last]:.2f}"
            )
        rows.append(row)
    heads = ["batch x tokens", f"ms, {_REFERENCE}", *([] if is_step else ["over lower bound"])]
    heads += [name.removeprefix("conditional, ") for name in names]
    return table(heads, rows)


def _size(shape: str) -> tuple[int, int]:
    batch, _, tokens = shape.partition(" x ")
    return int(tokens) if tokens.isdigit() else 0, int(batch)


def _describe_all(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Settings of a table, and the command of each of its cells."""
    settings: dict[str, dict[str, list[str]]] = {}
    for shape in sorted(cells, key=_size):
        commands = settings.setdefault(_setting(cells[shape]), {})
        commands.setdefault(_command(cells[shape]), []).append(shape)
    if sum(len(commands) for commands in settings.values()) == 1:
        return describe(next(iter(cells.values())))
    parts = [
        f"{setting}, "
        + ", ".join(f"{command} ({', '.join(shapes)})" for command, shapes in commands.items())
        for setting, commands in settings.items()
    ]
    return "; ".join(parts) + "."


def describe(report: Mapping[str, Any]) -> str:
    """Threads, versions, commit and command of a report."""
    return f"{_setting(report)}, {_command(report)}."


def _setting(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}, {versions}"


def _command(report: Mapping[str, Any]) -> str:
    return f"commit {str(report['commit'])[:7]}: `{report['command']}`"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
