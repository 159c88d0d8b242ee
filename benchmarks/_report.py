"""Command line, provenance and result files that benchmarks and experiments share."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from conditional_adapters.analysis.timing import Timing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Report = dict[str, object]


def describe_run(module: str, package: str, *, with_processor: bool = False) -> Report:
    """Provenance of a run: command, commit, versions, machine and threads.

    Args:
        module: Module of the benchmark, as `python -m` takes it.
        package: Library whose version is recorded besides torch.
        with_processor: Also record the processor.

    Returns:
        The provenance. `commit` is None outside a clone. Absolute paths in the command are
        shortened: relative to the clone, or else to their last part.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "src", "benchmarks/**.py", "experiments/*.py")
    return {
        "command": shlex.join(["python", "-m", module, *map(_portable, sys.argv[1:])]),
        "commit": commit,
        "has_uncommitted_code": None if changes is None else bool(changes),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            package: version(package),
        },
        "machine": {
            **({"processor": _processor()} if with_processor else {}),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "load_average": [round(value, 1) for value in os.getloadavg()],
        },
        "threads": torch.get_num_threads(),
    }


def describe_allocator() -> Report:
    """C library, preloaded libraries and allocator settings of this process."""
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "library": " ".join(platform.libc_ver()).strip() or "unknown",
        "preloaded": [Path(path).name for path in os.environ.get("LD_PRELOAD", "").split()],
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "keeps_freed_pages": True,  # every timing does (`analysis.timing`)
        "transparent_huge_pages": huge_pages.read_text().strip() if huge_pages.exists() else "",
    }


def make_parser(
    description: str, *, rounds: int, output: str, threads: int = 1
) -> argparse.ArgumentParser:
    """Command line with the options that all benchmarks have.

    Args:
        description: Docstring of the benchmark; `--help` shows its first line.
        rounds: Default number of measured rounds.
        output: Name of the default result file.
        threads: Default number of CPU threads.

    Returns:
        A parser for further options.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds, at least 3")
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, default=RESULTS / output, help="result file")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, set the number of threads and seed torch."""
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def milliseconds(timing: Timing, *, calls: int = 1, digits: int = 2) -> Report:
    """Median and quartiles of one call in milliseconds.

    Args:
        timing: The measured times.
        calls: Number of calls in each measurement.
        digits: Digits after the decimal point.

    Returns:
        `median`, `q1` and `q3`.
    """
    lower, median, upper = (round(1e3 * value / calls, digits) for value in timing.quartiles)
    return {"median": median, "q1": lower, "q3": upper}


def write_report(output: Path, run: Report, results: Report) -> None:
    """Write a run and its results as JSON, and print the results.

    Args:
        output: Result file; missing folders are made.
        run: Provenance (`describe_run`) and settings of the benchmark.
        results: The measured numbers.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(run | {"results": results}, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def _portable(argument: str) -> str:
    """An argument without the folders of this machine."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
