"""Put the `adapters` library into the table of peers, measured in an environment of its own.

It needs another transformers than this project, so it cannot take turns with the others. It is
timed against its own plain model, and only that ratio goes into the table (`benchmarks.peers`,
which runs first).
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks._report import RESULTS, ROOT, Report
from benchmarks.peers import ADAPTER_DIM, SHAPES

REQUIREMENTS = ("torch==2.13.0", "adapters==1.3.0")
ENVIRONMENT = ROOT / "build" / "adapters-library"
ROW = "parallel adapter of the adapters library"


def make_environment(folder: Path) -> Path:
    """Make the environment if it is not there; return its Python."""
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS)
    if not (mark.exists() and mark.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        mark.write_text(wanted)
    return python


def merge(report: Report, found: Report) -> Report:
    """Put the ratios beside the other peers.

    Args:
        report: What `benchmarks.peers` wrote.
        found: Ratios by shape, and versions.

    Returns:
        The report with one more row for each shape, which has no milliseconds.
    """
    results = {
        shape: {
            **rows,
            ROW: {
                "times_faster_than_plain": round(found["times_faster"][shape], 3),
                "own_environment": found["versions"],
            },
        }
        for shape, rows in report["results"].items()
    }
    return {**report, "results": results}


def main() -> None:
    """Install, measure, and add to the results of the peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, at least 3")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / "peers.json")
    arguments = parser.parse_args()
    if not arguments.output.exists():
        raise SystemExit(f"{arguments.output} is missing. Run `python -m benchmarks.peers` first.")
    report = json.loads(arguments.output.read_text())
    command = [make_environment(ENVIRONMENT), Path(__file__).with_name("_adapters_library.py")]
    command += ["--shapes", *(f"{batch}x{tokens}" for batch, tokens in SHAPES)]
    command += ["--rounds", arguments.rounds, "--threads", arguments.threads]
    command += ["--layers", report["layers"], "--adapter-dim", ADAPTER_DIM]
    run = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    arguments.output.write_text(json.dumps(merge(report, found), indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
