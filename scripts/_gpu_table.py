"""Tables of benchmarks/results/gpu.json."""

from collections.abc import Mapping
from typing import Any

from scripts._encoder_tables import table

_EAGER, _GRAPH, _STEP = "eager", "CUDA graph", "step"


def gpu_tables(report: Mapping[str, Any]) -> str:
    """Settings and tables of models, training steps and operators.

    Args:
        report: Report of `benchmarks.gpu`.

    Returns:
        Markdown.
    """
    results: Mapping[str, Any] = report["results"]
    forward = {name: parts for name, parts in results.items() if _GRAPH in parts}
    steps = {name: parts[_STEP] for name, parts in results.items() if _STEP in parts}
    versions = report["versions"]
    head = (
        f"{report['gpu']}, {report['dtype']}, random weights, torch {versions['torch']}, "
        f"Triton {report['triton']}, medians of {report['rounds']} rounds: "
        f"`{report['command']}`"
    )
    sections = [head, *(_forward(name, parts) for name, parts in forward.items())]
    sections += [_steps(steps), _operators(results["operators"])]
    return "\n\n".join(sections)


def _forward(name: str, parts: Mapping[str, Any]) -> str:
    rows = []
    for candidate, graph in parts[_GRAPH].items():
        eager = parts[_EAGER].get(candidate, {})
        rows.append(
            (
                candidate,
                _milliseconds(eager),
                _figure(eager, "times_faster", ".2f", "x"),
                _milliseconds(graph),
                _figure(graph, "times_faster", ".2f", "x"),
                _figure(graph, "flop_ratio", ".2f"),
                _figure(graph, "share_of_flop_ratio", ".2f"),
            )
        )
    heading = (
        name, "eager, ms", "speed-up", "CUDA graph, ms", "speed-up", "FLOP ratio", "share",
    )  # fmt: skip
    return table(heading, rows)


def _steps(steps: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{name}: {candidate}",
            _milliseconds(row),
            _figure(row, "times_faster", ".2f", "x"),
            f"{row['peak_megabytes_of_the_call']:,}"
            if "peak_megabytes_of_the_call" in row
            else "-",
        )
        for name, candidates in steps.items()
        for candidate, row in candidates.items()
    ]
    return table(("training step, eager", "ms", "speed-up", "peak MB"), rows)


def _operators(shapes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    found = [
        (f"{operator}, {shape}", ways)
        for shape, operators in shapes.items()
        for operator, ways in operators.items()
    ]
    ways = list(dict.fromkeys(way for _, row in found for way in row if "error" not in row[way]))
    rows = [(name, *(_microseconds(row.get(way, {})) for way in ways)) for name, row in found]
    return table(("operator, microseconds", *ways), rows)


# A failed part has an error in place of figures.
def _milliseconds(row: Mapping[str, Any]) -> str:
    return f"{row['milliseconds']['median']:.1f}" if "milliseconds" in row else "failed"


def _microseconds(row: Mapping[str, Any]) -> str:
    return f"{1e3 * row['milliseconds']['median']:.0f}" if "milliseconds" in row else "failed"


def _figure(row: Mapping[str, Any], key: str, form: str, unit: str = "") -> str:
    return f"{row[key]:{form}}{unit}" if key in row else "-"
