"""Figures of the documentation, from the result files alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _config
from ._config import Experiment, pretraining_of
from ._quality import Quality, quality_of
from ._tables import evaluations, percentages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def docs() -> Path:
    """The folder of the documentation."""
    return _config.FOLDER.parent / "docs"


def speed_figure(name: str, experiment: Experiment, results: dict[str, Any]) -> Path | None:
    """Draw quality against the speed of the encoder; None if speeds are missing."""
    from matplotlib.figure import Figure

    if not results["speed"]:
        return None

    quality = quality_of(experiment.kind.name)
    figure = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row_name, row in experiment.rows.items():
        if row.group is not None:
            continue  # tables have room for all, a figure has not
        points = []
        for key, runs in evaluations(row_name, experiment, results).items():
            timing = results["speed"].get(key)
            if timing is not None:
                points.append((timing["encoder_times_faster"], *percentages(quality, runs)))
        if points:
            x, y, error = zip(*sorted(points), strict=True)
            axes.errorbar(x, y, yerr=error, marker="o", capsize=3, label=row.title)
    axes.set_xlabel("encoder, times faster than the baseline")
    return _save(figure, axes, quality, f"experiment-{name}.png")


def pretraining_figure(name: str, experiment: Experiment, results: dict[str, Any]) -> Path | None:
    """Draw quality over steps of pretraining by reduction factor; None where these do not vary.

    Only rows whose backbone stays as it was are on one curve.
    """
    from matplotlib.figure import Figure

    quality = quality_of(experiment.kind.name)
    curves: dict[float, list[tuple[int, float, float]]] = {}
    dense = 0.0
    for row_name, row in experiment.rows.items():
        runs = evaluations(row_name, experiment, results).get(row_name)
        if runs is None or row.training:
            continue
        mean, deviation = percentages(quality, runs)
        if row_name == experiment.baseline:
            dense = mean
        elif (row.method, set(row.adapter)) == ("adapter", {"reduction_factor"}):
            pretraining = pretraining_of(row)
            if pretraining is not None and pretraining.trains_all:
                continue
            point = 0 if pretraining is None else pretraining.steps, mean, deviation
            curves.setdefault(row.adapter["reduction_factor"], []).append(point)
    curves = {
        factor: sorted(points)
        for factor, points in curves.items()
        if len({steps for steps, _, _ in points}) > 2
    }
    if not curves:
        return None
    figure = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axhline(dense, color="grey", linestyle="--", label="dense adapters")
    for factor, points in sorted(curves.items()):
        x, y, error = zip(*points, strict=True)
        axes.errorbar(x, y, yerr=error, marker="o", capsize=3, label=f"r = {factor:g}")
    axes.set_xlabel("steps of pretraining")
    return _save(figure, axes, quality, f"pretraining-{name}.png")


def _save(figure: "Figure", axes: "Axes", quality: Quality, file: str) -> Path:
    axes.set_ylabel(f"{quality.heading} in %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    path = docs() / "images" / file
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    return path
