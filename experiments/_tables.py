"""Tables of the documentation, from the result files alone."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ._config import Experiment, Row, load_experiment
from ._quality import Quality, quality_of
from ._results import Run, read_results

RESAMPLES = 10_000

Runs = dict[str, Run]  # by seed


Line = dict[str, str]
Part = Callable[[np.ndarray], np.ndarray]  # mask of rows from their sizes


def table(name: str) -> list[Line]:
    """All lines of one experiment, with the same columns."""
    return _fill([line for lines in tables(name).values() for line in lines])


def tables(name: str) -> dict[str | None, list[Line]]:
    """The tables of one experiment by group; rows without a group come first."""
    experiment, results = load_experiment(name), read_results(name)
    baseline = evaluations(experiment.baseline, experiment, results)
    if not baseline:
        return {}
    reference = next(iter(baseline.values()))
    groups: dict[str | None, list[Line]] = {None: []}
    for row_name, row in experiment.rows.items():
        for key, runs in evaluations(row_name, experiment, results).items():
            line = _line(experiment, row, key, runs, reference, results)
            factor = next(iter(runs.values())).get("reduction_factor")
            if (other := row.compared_with(factor)) is not None:
                line["compared with"] = _comparison(other, factor, runs, experiment, results)
            groups.setdefault(row.group, []).append(line)
    return {group: _fill(lines) for group, lines in groups.items() if lines}


def _fill(lines: list[Line]) -> list[Line]:
    """Give all lines the same columns."""
    columns = max(lines, key=len, default={})
    return [{column: line.get(column, "-") for column in columns} for line in lines]


def _comparison(
    other: str, factor: float | None, runs: Runs, experiment: Experiment, results: dict[str, Any]
) -> str:
    """The difference to a row other than the baseline."""
    found = evaluations(other, experiment, results)
    reference = found.get(other) or found.get(f"{other}@{factor:g}" if factor else other, {})
    quality = quality_of(experiment.kind.name)
    return f"{experiment.rows[other].title}: {difference(quality, runs, reference)}"


def evaluations(row_name: str, experiment: Experiment, results: dict[str, Any]) -> dict[str, Runs]:
    """The current runs of a row, by reduction factor and seed."""
    found: dict[str, Runs] = {}
    digest = experiment.digest(row_name)
    for seed, run in results["runs"].get(row_name, {}).items():
        if run["settings"] != digest or int(seed) not in experiment.row_seeds(row_name):
            continue
        for result in run["results"]:
            factor = result.get("reduction_factor")
            key = row_name if factor is None else f"{row_name}@{factor:g}"
            found.setdefault(key, {})[seed] = {**run, **result}
    return found


def _line(
    experiment: Experiment,
    row: Row,
    key: str,
    runs: Runs,
    reference: Runs,
    results: dict[str, Any],
) -> dict[str, str]:
    quality = quality_of(experiment.kind.name)
    mean, deviation = percentages(quality, runs)
    spread = f" ± {deviation:.1f}" if len(runs) > 1 else ""
    first, timing = next(iter(runs.values())), results["speed"].get(key, {})
    compiled = results["compiled_speed"].get(key, {}).get("compiled_encoder_times_faster")
    factor = first.get("reduction_factor")
    flops = timing.get("flops_per_row", first.get("flops_per_row"))
    base_flops = next(iter(reference.values())).get("flops_per_row")
    is_baseline = key == experiment.baseline
    return {
        "method": row.title if factor is None else f"{row.title}, r = {factor:g}",
        quality.heading: f"{mean:.1f}{spread} %",
        "seeds": str(len(runs)),
        "difference": "-" if is_baseline else difference(quality, runs, reference),
        **_parts(experiment, runs, {} if is_baseline else reference),
        "steps": f"{first['steps']:,}",
        "new": f"{first['new_parameters_share']:.1%}",
        "FLOPs": f"{base_flops / flops:.2f}x" if flops and base_flops else "-",
        "encoder": _times(timing.get("encoder_times_faster")),
        **({"compiled": _times(compiled)} if results["compiled_speed"] else {}),
        "step": _times(timing.get("training_step_times_faster")),
    }


def _parts(experiment: Experiment, runs: Runs, reference: Runs) -> Line:
    """Quality and difference of short and of long rows, if the experiment shows them apart."""
    limit = experiment.words_apart
    if limit is None:
        return {}
    quality = quality_of(experiment.kind.name)
    parts: dict[str, Part] = {
        f"up to {limit} words": lambda sizes: sizes <= limit,
        "longer": lambda sizes: sizes > limit,
    }
    line = {}
    for name, part in parts.items():
        points, sizes = _outcomes(quality, runs, list(runs), part)
        apart = difference(quality, runs, reference, part)
        mean = f"{100 * points.sum() / (len(runs) * sizes.sum()):.1f} %"
        line[name] = mean if apart == "-" else f"{mean}, {apart}"
    return line


def difference(quality: Quality, runs: Runs, reference: Runs, part: Part | None = None) -> str:
    """Mean difference in points over the common seeds, with its interval."""
    seeds = [seed for seed in runs if seed in reference]
    if not seeds:
        return "-"
    points, sizes = _outcomes(quality, runs, seeds, part)
    deltas = points - _outcomes(quality, reference, seeds, part)[0]
    mean = deltas.sum() / (len(seeds) * sizes.sum())
    lower, upper = interval(deltas, sizes)
    return f"{100 * mean:+.1f} ({100 * lower:+.1f} to {100 * upper:+.1f})"


def _outcomes(
    quality: Quality, runs: Runs, seeds: list[str], part: Part | None
) -> tuple[np.ndarray, np.ndarray]:
    """Points `[seeds, rows]` and sizes `[rows]` of all rows, or of a part."""
    outcomes = [quality.unpack(runs[seed], runs[seed]["rows"]) for seed in seeds]
    sizes = outcomes[0].sizes
    chosen = np.ones(len(sizes), dtype=bool) if part is None else part(sizes)
    points = np.stack([outcome.points.astype(float) for outcome in outcomes])
    return points[:, chosen], sizes[chosen]


def interval(deltas: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the difference of two ratios, over seeds and rows.

    Args:
        deltas: Differences in points `[seeds, rows]`.
        sizes: Denominators of the rows.

    Returns:
        The 2.5 and 97.5 percentiles of sums of points over sums of sizes.
    """
    rng = np.random.default_rng(0)
    num_seeds, num_rows = deltas.shape
    # Rows with equal values are drawn together, which is much faster.
    kinds, counts = np.unique(np.vstack([deltas, sizes]), axis=1, return_counts=True)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), RESAMPLES)
    rows = rng.multinomial(num_rows, counts / num_rows, RESAMPLES)
    points = (seeds / num_seeds @ kinds[:-1] * rows).sum(1)
    lower, upper = np.quantile(points / (rows @ kinds[-1]), [0.025, 0.975])
    return float(lower), float(upper)


def percentages(quality: Quality, runs: Runs) -> tuple[float, float]:
    """Mean and standard deviation over seeds; the latter is 0 for one seed."""
    values = 100 * np.array([run[quality.key] for run in runs.values()])
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
