"""The benchmarks run, with the fewest rounds, and write what is in the committed results."""

import importlib
import json

import pytest
import torch

from benchmarks._report import RESULTS


def keys_of(report: object) -> object:
    """Return the keys of a report, without its values."""
    if isinstance(report, dict):
        return {key: keys_of(value) for key, value in report.items()}
    return None


@pytest.mark.parametrize(
    "module, rounds, arguments",
    [
        ("ops.soft_topk", 2, ()),
        ("conformer", 3, ("--frames", "16")),
        ("ragged", 3, ("--texts", "3")),
        ("short_inputs", 3, ("--layers", "1")),
        ("lengths", 3, ("--layers", "1", "--lengths", "16", "32")),
        # Exporting traces the model, which checks of shapes would take part in.
        pytest.param("onnx", 3, ("--tokens", "16", "--layers", "1"), marks=pytest.mark.compile),
    ],
)
def test_a_benchmark_runs_and_its_report_has_the_committed_form(
    module, rounds, arguments, tmp_path, monkeypatch
) -> None:
    module = f"benchmarks.{module}"
    output = tmp_path / "results" / f"{module.rpartition('.')[2]}.json"
    options = ["--rounds", str(rounds), "--threads", str(torch.get_num_threads()), *arguments]
    monkeypatch.setattr("sys.argv", ["x", *options, "--output", str(output)])
    importlib.import_module(module).main()
    report = json.loads(output.read_text())
    committed = json.loads((RESULTS / output.name).read_text())
    assert json.dumps(keys_of(report)) == json.dumps(keys_of(committed))  # in the same order
    assert report["rounds"] == rounds
    assert report["command"].startswith(f"python -m {module} --rounds {rounds} ")
