"""Train several rows at a time, each in a process of its own."""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks._report import describe_run
from conditional_adapters.toolkit.cli._console import messages

from ._config import load_experiment
from ._results import write_run
from ._run import run_row
from ._tune import tune_row


def run_one(name: str, row: str, seed: int, workspace: Path) -> None:
    """Train and evaluate a row with one seed, and write the result; see `run_row`."""
    messages.print(f"[bold]{name}: {row}, seed {seed}[/]")
    result = run_row(load_experiment(name), name, row, seed, workspace)
    write_run(name, row, seed, result | describe_run("experiments", "transformers"))


def tune_one(name: str, row: str, workspace: Path, seeds: int) -> None:
    """Choose the learning rate of a row; see `tune_row`."""
    rate = tune_row(load_experiment(name), name, row, workspace, seeds=seeds)
    messages.print(f"{name}: {row}, learning rate {rate:g}")


def do_all(
    work: Callable[..., None],
    jobs: Sequence[tuple[Any, ...]],
    *,
    processes: int,
    threads: int | None,
) -> None:
    """Call a function once for each job.

    Args:
        work: A function of a module, so that other processes find it.
        jobs: Its arguments; they start in this order.
        processes: How many at a time; 1 works in this process and stops at the first error.
        threads: CPU threads of torch in each process.

    Raises:
        SystemExit: If any job failed, after all others are done.
    """
    if processes == 1:
        _use_threads(threads)
        for job in jobs:
            work(*job)
        return
    # A copy of a process that has used a GPU cannot use it: each starts afresh.
    pool = ProcessPoolExecutor(
        min(processes, max(len(jobs), 1)),
        multiprocessing.get_context("spawn"),
        initializer=_use_threads,
        initargs=(threads,),
    )
    failed = []
    with pool:
        futures = {pool.submit(work, *job): job for job in jobs}
        for future in as_completed(futures):
            if (error := future.exception()) is not None:
                failed.append(futures[future])
                messages.print("".join(traceback.format_exception(error)), markup=False)
    if failed:
        raise SystemExit(f"These jobs failed and can be run again: {failed}.")


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
