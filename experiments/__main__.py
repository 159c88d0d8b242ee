"""Run experiments and render their tables: `python -m experiments --help`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks._report import describe_run
from conditional_adapters.checkpoint.atomic import replace_text
from conditional_adapters.toolkit.cli._console import messages, print_table

from . import _config
from ._config import (
    Experiment,
    experiment_names,
    load_experiment,
    load_pretraining,
    load_scratch,
)
from ._jobs import do_all, run_one, tune_one
from ._pretrain import run_pretraining
from ._report import render as render_page
from ._results import is_current, write_speed
from ._scratch import run_scratch
from ._speed import measure_compiled_speed, measure_speed
from ._tables import table

Workspace = Annotated[Path, typer.Option(help="Folder for checkpoints.")]
Rows = Annotated[str, typer.Option(help="Only these rows, separated by commas.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]
Jobs = Annotated[int, typer.Option(min=1, help="Parallel trainings, each in its own process.")]
WORKSPACE = Path("runs/experiments")

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; all if none.")] = None,
    rows: Rows = "",
    seeds: Annotated[str, typer.Option(help="Only these seeds, separated by commas.")] = "",
    jobs: Jobs = 1,
    threads: Threads = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Train missing runs and runs whose settings have changed.

    Rows are trained seed by seed, so that a first comparison is available early. Interrupted
    trainings resume from their last checkpoint. Uses a GPU if there is one.
    """
    names = names or experiment_names()
    missing: list[tuple[int, str, str]] = []
    for name in names:
        experiment = load_experiment(name)
        missing += [
            (seed, name, row)
            for row in _wanted(experiment, name, rows)
            for seed in experiment.row_seeds(row)
            if (not seeds or str(seed) in seeds.split(","))
            and not is_current(experiment, name, row, seed)
        ]
    ordered = sorted(missing, key=lambda job: job[0])  # rows stay in the order of the files
    do_all(
        run_one,
        [(name, row, seed, workspace) for seed, name, row in ordered],
        processes=jobs,
        threads=threads,
    )
    for name in names:
        if lines := table(name):
            print_table(load_experiment(name).title, lines)


@app.command()
def tune(
    names: Annotated[list[str], typer.Argument(help="Experiments.")],
    rows: Rows = "",
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds that the chosen rate must be trained with.")
    ] = 1,
    jobs: Jobs = 1,
    threads: Threads = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Choose the learning rate of each row on validation data, for later calls of `run`.

    All rows try the same rates (`learning_rates` of the experiment). Writes
    experiments/NAME/tuning.json after every training and skips trainings that it has.
    """
    for name in names:
        if seeds > (known := len(load_experiment(name).seeds)):
            raise typer.BadParameter(f"{name} has {known} seeds; got {seeds}. Give fewer.")
    wanted = [
        (name, row, workspace, seeds)
        for name in names
        for row in _wanted(load_experiment(name), name, rows)
    ]
    do_all(tune_one, wanted, processes=jobs, threads=threads)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="A folder with a pretraining.yaml.")],
    threads: Threads = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Pretrain an adapter, or resume an interrupted pretraining.

    Writes WORKSPACE/NAME/adapter (and WORKSPACE/NAME/model, if all of it trains), and the losses to
    experiments/NAME/pretraining.json.
    """
    pretraining, output = load_pretraining(name), workspace / name
    run_once = partial(run_pretraining, pretraining, workspace, output)
    _run_and_write(run_once, output, f"{name}/pretraining.json", threads)
    messages.print(f"adapter: {output / 'adapter'}")


@app.command()
def scratch(
    name: Annotated[str, typer.Argument(help="A folder with a scratch.yaml.")],
    threads: Threads = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Pretrain a T5 from scratch, or resume an interrupted pretraining.

    Writes WORKSPACE/NAME/model, and the losses to experiments/NAME/scratch.json.
    """
    output = workspace / name
    run_once = partial(run_scratch, load_scratch(name), output)
    _run_and_write(run_once, output, f"{name}/scratch.json", threads)
    messages.print(f"model: {output / 'model'}")


@app.command()
def speed(
    names: Annotated[list[str], typer.Argument(help="Experiments.")],
    rows: Rows = "",
    rounds: Annotated[int, typer.Option(min=3, help="Measured rounds.")] = 11,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Measure compiled encoders instead.")
    ] = False,
    threads: Threads = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Measure encoder and training step of all rows in turns, on a machine without other load.

    Replaces all speeds of the experiment, or with --compile those of compiled encoders.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    for name in names:
        experiment = load_experiment(name)
        wanted = {experiment.baseline, *_wanted(experiment, name, rows)}
        chosen = {row: experiment.rows[row] for row in experiment.rows if row in wanted}
        experiment = experiment.model_copy(update={"rows": chosen})
        torch.manual_seed(0)
        described = describe_run("experiments", "transformers")
        described["batch_size"] = experiment.timing_batch
        measure = measure_compiled_speed if compiled else measure_speed
        speeds = measure(experiment, workspace, rounds=rounds)
        write_speed(name, speeds | {"measurement": described}, compiled=compiled)
        print_table(experiment.title, table(name))


@app.command()
def render() -> None:
    """Write docs/experiments.md and its figures from the results."""
    messages.print(f"wrote {render_page()}")


def _run_and_write(
    train: Callable[..., dict[str, Any]], output: Path, file: str, threads: int | None
) -> None:
    """Train, resume from a checkpoint if there is one, and write the result."""
    if threads is not None:
        torch.set_num_threads(threads)
    described = describe_run("experiments", "transformers")
    result = train(resume=any(output.glob("checkpoint-*")))
    replace_text(_config.FOLDER / file, json.dumps(described | result, indent=1) + "\n")


def _wanted(experiment: Experiment, name: str, rows: str) -> list[str]:
    """The rows of the `--rows` option."""
    wanted = rows.split(",") if rows else list(experiment.rows)
    unknown = set(wanted) - set(experiment.rows)
    if unknown:
        raise SystemExit(f"{name} has no rows {sorted(unknown)}; it has {[*experiment.rows]}.")
    return wanted


if __name__ == "__main__":
    app()
