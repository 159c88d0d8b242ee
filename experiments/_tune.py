"""Choose the learning rate of a row on validation rows, from the same few rates for every row."""

from pathlib import Path
from statistics import fmean

from . import _config
from ._config import Experiment, read_tuning
from ._quality import quality_of
from ._results import update_json
from ._run import run_row


def tune_row(
    experiment: Experiment, name: str, row_name: str, workspace: Path, *, seeds: int = 1
) -> float:
    """Train with each rate that is missing in `tuning.json`, and write the choice there.

    Every rate is trained with the first seed. The best rate so far is then trained with one
    more seed, until the best has all of them: a rate that diverges with another seed falls back.

    Args:
        experiment: The experiment.
        name: Its name.
        row_name: One of its rows.
        workspace: Where checkpoints go.
        seeds: With how many of the experiment's seeds the chosen rate is trained.

    Returns:
        The rate with the best mean quality on validation rows; among equals the one that the row
        has anyway, then the smallest.
    """
    quality = quality_of(experiment.kind.name)
    validation = experiment.for_tuning()
    settings = validation.digest(row_name)
    usual = validation.row_settings(row_name)[1].learning_rate
    sign = 1 if quality.lower_is_better else -1
    measured = _measured(name, row_name, settings)

    def measure(rate: float) -> None:
        """Train with the next seed."""
        values = measured.setdefault(f"{rate:g}", [])
        trial = validation.model_copy(update={"tuned": {row_name: rate}})
        seed = experiment.seeds[len(values)]
        results = run_row(trial, name, row_name, seed, workspace)["results"]
        values.append(round(fmean(result[quality.key] for result in results), 5))
        _write(name, row_name, {"settings": settings, quality.key: measured})

    def order(rate: float) -> tuple[float, bool, float]:
        return sign * fmean(measured[f"{rate:g}"]), rate != usual, rate

    for rate in experiment.learning_rates:
        if f"{rate:g}" not in measured:
            measure(rate)
    chosen = min(experiment.learning_rates, key=order)
    while len(measured[f"{chosen:g}"]) < seeds:
        measure(chosen)
        chosen = min(experiment.learning_rates, key=order)
    entry = {"settings": settings, quality.key: measured, "learning_rate": chosen}
    _write(name, row_name, entry)
    return chosen


def _measured(name: str, row_name: str, settings: str) -> dict[str, list[float]]:
    """Qualities so far by rate, one for each seed, if the row has not changed."""
    entry = read_tuning(name).get(row_name, {})
    if entry.get("settings") != settings:
        return {}
    return next(dict(value) for value in entry.values() if isinstance(value, dict))


def _write(name: str, row_name: str, entry: dict[str, object]) -> None:
    def add(tuning: dict[str, object]) -> None:
        tuning[row_name] = entry
        for row in sorted(tuning):
            tuning[row] = tuning.pop(row)

    update_json(_config.FOLDER / name / "tuning.json", {}, add)
