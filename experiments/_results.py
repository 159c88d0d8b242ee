"""`results.json`: the results of an experiment, written after every run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from conditional_adapters.checkpoint.atomic import replace_text

from . import _config
from ._config import Experiment

Run = dict[str, Any]


def results_path(name: str) -> Path:
    """Path of the results of an experiment."""
    return _config.FOLDER / name / "results.json"


def read_results(name: str) -> dict[str, Any]:
    """The results so far: `runs` by row and seed, `speed` and `compiled_speed` by row."""
    path = results_path(name)
    if not path.exists():
        return _empty()
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return _empty() | stored


def write_run(name: str, row: str, seed: int, run: Run) -> None:
    """Add one run to the results atomically; runs of other processes are kept."""

    def add(results: dict[str, Any]) -> None:
        results["runs"].setdefault(row, {})[str(seed)] = run
        results["runs"] = {row: results["runs"][row] for row in sorted(results["runs"])}

    update_json(results_path(name), _empty(), add)


def write_speed(name: str, speed: dict[str, Any], *, compiled: bool = False) -> None:
    """Replace the measured speeds, or those of compiled encoders."""
    new = {"compiled_speed" if compiled else "speed": speed}
    update_json(results_path(name), _empty(), lambda results: results.update(new))


def _empty() -> dict[str, Any]:
    return {"runs": {}, "speed": {}, "compiled_speed": {}}


def is_current(experiment: Experiment, name: str, row: str, seed: int) -> bool:
    """Whether a run exists and has the settings of the current file."""
    run = read_results(name)["runs"].get(row, {}).get(str(seed))
    return run is not None and run["settings"] == experiment.digest(row)


def update_json(
    path: Path, default: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    """Change a file of JSON, one process at a time.

    Args:
        path: The file, replaced as a whole.
        default: Contents if the file does not exist.
        change: Changes the contents in place.
    """
    with FileLock(path.with_suffix(".lock")):
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else default
        change(stored)
        replace_text(path, json.dumps(stored, indent=1) + "\n")
