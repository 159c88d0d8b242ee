"""Choose the learning rate of a row on validation rows, from the same few rates for every row."""

from pathlib import Path

from . import _config
from ._config import Experiment, read_tuning
from ._quality import quality_of
from ._results import update_json
from ._run import run_row

_SEED = 0


def tune_row(experiment: Experiment, name: str, row_name: str, workspace: Path) -> float:
    """Train with each rate that is missing in `tuning.json`, and write the choice there.

    Args:
        experiment: The experiment.
        name: Its name.
        row_name: One of its rows.
        workspace: Where checkpoints go.

    Returns:
        The rate with the best quality on validation rows with one seed; among equals the one that
        the row has anyway, then the smallest.
    """
    quality = quality_of(experiment.kind.name)
    validation = experiment.for_tuning()
    settings = validation.digest(row_name)
    for rate in experiment.learning_rates:
        if f"{rate:g}" in _measured(name, row_name, settings):
            continue
        trial = validation.model_copy(update={"tuned": {row_name: rate}})
        results = run_row(trial, name, row_name, _SEED, workspace)["results"]
        value = sum(result[quality.key] for result in results) / len(results)
        measured = _measured(name, row_name, settings) | {f"{rate:g}": round(value, 5)}
        _write(name, row_name, {"settings": settings, quality.key: measured})
    measured = _measured(name, row_name, settings)
    usual = validation.row_settings(row_name)[1].learning_rate
    sign = 1 if quality.lower_is_better else -1
    chosen = min(
        experiment.learning_rates,
        key=lambda rate: (sign * measured[f"{rate:g}"], rate != usual, rate),
    )
    entry = {"settings": settings, quality.key: measured, "learning_rate": chosen}
    _write(name, row_name, entry)
    return chosen


def _measured(name: str, row_name: str, settings: str) -> dict[str, float]:
    """Return the qualities so far by rate, if the row is still the same."""
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
