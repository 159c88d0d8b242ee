"""The benchmarks run, with the fewest rounds, and write what is in the committed results."""

import importlib
import json

import pytest
import torch

import conditional_adapters as ca
from benchmarks._report import RESULTS
from conditional_adapters.tasks.bundle import save_task
from conditional_adapters.tasks.models import load_classifier
from tests.tiny_bert import word_tokenizer, write_bert


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


@pytest.mark.compile  # it exports
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of torchao
def test_the_accuracy_of_a_classifier_in_8_bits_is_compared_row_by_row(
    tmp_path, monkeypatch
) -> None:
    words = ["a", "text", "one", "two", "three"]
    write_bert(tmp_path / "model", word_tokenizer(words, max_length=24), num_layers=1)
    classifier = load_classifier(str(tmp_path / "model"), ["animals", "plants"], max_length=20)
    ca.attach(classifier.model, ca.ConditionalAdapterConfig(reduction_factor=2, adapter_dim=4))
    save_task(classifier, tmp_path / "adapter", base_model=str(tmp_path / "model"))
    rows = [f"{' '.join(words[: 1 + i % 5])},{('animals', 'plants')[i % 2]}" for i in range(12)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    arguments = ["--adapter", tmp_path / "adapter", "--data", tmp_path / "rows.csv"]
    arguments += ["--threads", torch.get_num_threads(), "--output", tmp_path / "int8.json"]
    monkeypatch.setattr("sys.argv", ["x", *map(str, arguments)])
    importlib.import_module("benchmarks.int8").main()
    report = json.loads((tmp_path / "int8.json").read_text())
    assert (report["rows"], report["reduction_factor"]) == (12, 2)
    differences = {
        name: row["largest_difference_of_probability"] for name, row in report["results"].items()
    }
    assert list(differences) == [
        "PyTorch, float32",
        "ONNX Runtime, float32",
        "ONNX Runtime, int8",
        "torchao, int8",
    ]
    exact, onnx, *eight_bits = differences.values()
    assert exact == 0 < onnx < 1e-5 < min(eight_bits)
    assert max(eight_bits) < 0.1
    assert report["results"]["ONNX Runtime, float32"]["same_class"] == 1
