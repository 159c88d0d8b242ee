"""What stands beside the numbers of benchmarks and experiments, to judge and repeat them."""

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Report = dict[str, object]


def describe_run(module: str, package: str, *, with_processor: bool = False) -> Report:
    """Collect what a reader needs to know of any run.

    Args:
        module: What runs, as `python -m` takes it.
        package: A library besides torch whose version matters.
        with_processor: Whether to name the processor, too.

    Returns:
        The command, the code, the versions and the machine. `commit` is None outside of a clone.
        Of an absolute path the command has what is below the clone, or else the last part.
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


def write_report(output: Path, run: Report, results: Report) -> None:
    """Write a run and its results as JSON.

    Args:
        output: A file; folders are made.
        run: What `describe_run` returned, and the settings of the benchmark.
        results: The numbers.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(run | {"results": results}, indent=2) + "\n")


def _portable(argument: str) -> str:
    """Return an argument without the folders of this machine."""
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
