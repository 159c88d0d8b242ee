"""The tables of benchmarks/results/gpu.json."""

from collections.abc import Mapping
from typing import Any

from scripts._encoder_tables import table

_EAGER, _GRAPH, _STEP = "eager", "CUDA graph", "step"


def gpu_tables(report: Mapping[str, Any]) -> str:
    """Return models, training steps and operators, with what they ran on.

    Args:
        report: The report of `benchmarks.gpu`.

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
        eager = parts[_EAGER][candidate]
        rows.append(
            (
                candidate,
                _milliseconds(eager),
                f"{eager['times_faster']:.2f}x",
                _milliseconds(graph),
                f"{graph['times_faster']:.2f}x",
                f"{graph['flop_ratio']:.2f}",
                f"{graph['share_of_flop_ratio']:.2f}",
            )
        )
    heading = (name, "eager, ms", "faster", "CUDA graph, ms", "faster", "FLOP ratio", "share")
    return table(heading, rows)


def _steps(steps: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{name}: {candidate}",
            _milliseconds(row),
            f"{row['times_faster']:.2f}x",
            f"{row['peak_megabytes_of_the_call']:,}",
        )
        for name, candidates in steps.items()
        for candidate, row in candidates.items()
    ]
    return table(("training step, eager", "ms", "faster", "peak megabytes"), rows)


def _operators(shapes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = [
        (f"{operator}, {shape}", *(_microseconds(row) for row in ways.values()))
        for shape, operators in shapes.items()
        for operator, ways in operators.items()
    ]
    ways = next(iter(next(iter(shapes.values())).values()))
    return table(("operator, microseconds", *ways), rows)


def _milliseconds(row: Mapping[str, Any]) -> str:
    return f"{row['milliseconds']['median']:.1f}"


def _microseconds(row: Mapping[str, Any]) -> str:
    return f"{1e3 * row['milliseconds']['median']:.0f}"
