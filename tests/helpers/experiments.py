"""Data for tiny experiments, and a way to run `python -m experiments`."""

import random

from typer.testing import CliRunner

from experiments import __main__ as command


def write_words(path, names, *, longest):
    """Write 90 texts of even or of odd words, and which it is."""
    rng = random.Random(0)
    lines = ["text,label"]
    for index in range(90):
        parity = index % 2
        words = (f"w{2 * rng.randrange(20) + parity}" for _ in range(rng.randint(4, longest)))
        lines.append(f"{' '.join(words)},{names[parity]}")
    path.write_text("\n".join(lines) + "\n")


def invoke(*arguments):
    result = CliRunner().invoke(command.app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
