"""Picture of quality and speed by reduction factor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Blue and orange of Okabe and Ito, safe for colour-blind readers; markers differ, too.
_MEASURED, _COUNTED, _CHOSEN, _QUIET = "#0072B2", "#D55E00", "black", "#666666"


def plot_quality_curve(
    factors: Sequence[float],
    qualities: Sequence[float],
    speed_ups: Sequence[float],
    flop_ratios: Sequence[float],
    *,
    metric: str = "accuracy",
    is_error: bool = False,
    intervals: Sequence[tuple[float, float]] | None = None,
    max_drop: float | None = None,
    chosen: float | None = None,
    caption: str = "",
) -> "matplotlib.figure.Figure":
    """Draw quality, and below it speed-up and FLOP ratio, by reduction factor.

    Args:
        factors: r, ascending; at least two. The first is the reference.
        qualities: One per factor, in [0, 1]; error rates may exceed 1.
        speed_ups: Speed-up over the reference, one per factor.
        flop_ratios: FLOP ratio to the reference, one per factor.
        metric: Name of the metric of quality.
        is_error: Whether lower is better.
        intervals: Confidence interval of each quality's difference to the reference, in [-1, 1].
        max_drop: Allowed loss in points, drawn as a line.
        chosen: Factor to mark.
        caption: Title of the picture.

    Returns:
        A figure to save.

    Raises:
        ConfigError: If there are fewer than two factors or a sequence has another length.
    """
    series = {"qualities": qualities, "speed_ups": speed_ups, "flop_ratios": flop_ratios}
    if intervals is not None:
        series |= {"intervals": intervals}  # type: ignore[dict-item]
    for name, values in series.items():
        if len(factors) < 2 or len(values) != len(factors):
            raise ConfigError(
                f"A curve needs at least 2 factors and one value for each, got {len(factors)} "
                f"factors and {len(values)} {name}. Measure more factors."
            )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), dpi=150, layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    limit = None if max_drop is None else (max_drop if is_error else -max_drop)
    _draw_quality(above, factors, qualities, metric, intervals, limit)
    line: dict[str, Any] = {"linewidth": 1.5, "markersize": 6}
    below.plot(factors, flop_ratios, "s--", color=_COUNTED, label="FLOP ratio, counted", **line)
    below.plot(factors, speed_ups, "o-", color=_MEASURED, label="speed-up, measured", **line)
    below.set_ylabel(f"ratio to r = {factors[0]:g}")
    below.set_xlabel("reduction factor r: layers process n / r of n tokens")
    below.set_xscale("log", base=2)
    below.set_xticks(factors, [f"{factor:g}" for factor in factors])
    below.set_xticks([], minor=True)
    below.set_ylim(bottom=0)
    if chosen is not None:
        for axes in (above, below):
            axes.axvline(chosen, color=_CHOSEN, linewidth=1, linestyle=":", zorder=0)
        above.plot([], [], ":", color=_CHOSEN, linewidth=1, label=f"chosen: r = {chosen:g}")
    for axes in (above, below):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    above.set_title(caption, fontsize=10, parse_math=False)
    return figure


def _draw_quality(
    axes: "matplotlib.axes.Axes",
    factors: Sequence[float],
    qualities: Sequence[float],
    metric: str,
    intervals: Sequence[tuple[float, float]] | None,
    limit: float | None,
) -> None:
    reference = 100 * qualities[0]
    points = [100 * quality for quality in qualities]
    axes.plot(factors, points, "o-", color=_MEASURED, linewidth=1.5, label=metric)
    if intervals is not None:
        lower, upper = reference + 100 * np.array(intervals[1:]).T
        axes.vlines(
            factors[1:], lower, upper, color=_MEASURED, linewidth=5, alpha=0.25,
            label=f"95 % interval of the difference to r = {factors[0]:g}",
        )  # fmt: skip
    if limit is not None:
        side = "below" if limit <= 0 else "above"
        axes.axhline(
            reference + limit, color=_QUIET, linewidth=1, linestyle="--",
            label=f"{abs(limit):g} points {side} r = {factors[0]:g}",
        )  # fmt: skip
    axes.set_ylabel(f"{metric} in %")
