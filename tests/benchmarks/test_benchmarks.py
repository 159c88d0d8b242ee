"""The benchmarks run, with the fewest rounds, and write what is in the committed results."""

import importlib
import json
import re

import pytest
import torch
from transformers import BertConfig, BertModel, WhisperConfig, WhisperForAudioClassification

import conditional_adapters as ca
from benchmarks._grid import Cell, estimate
from benchmarks._report import RESULTS, ROOT, describe_run
from conditional_adapters.toolkit.tasks.bundle import save_task
from conditional_adapters.toolkit.tasks.models import load_classifier
from scripts import _benchmark_tables as tables
from scripts._encoder_tables import encoder_tables
from scripts._gpu_table import gpu_tables
from scripts.benchmark_page import read_results
from tests.helpers.tiny_bert import word_tokenizer, write_bert


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


@pytest.mark.torchao
@pytest.mark.compile  # it exports
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of torchao
def test_the_accuracy_of_a_classifier_in_8_bits_is_compared_row_by_row(
    tmp_path, monkeypatch
) -> None:
    pytest.importorskip("torchao", reason="make test runs this apart")
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
    assert "rows.csv, 12 examples, r = 2" in tables.int8(report)


TINY = ("--factors", "4", "--rounds", "3", "--batches", "1", "2", "--tokens", "16", "--grid")


@pytest.fixture
def tiny_encoders(monkeypatch):
    """A BERT and a Whisper of the same code, in the places of large ones."""
    size = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    bert = BertConfig(**size, num_attention_heads=2, vocab_size=50, max_position_embeddings=64)
    size = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2}
    whisper = WhisperConfig(**size, encoder_ffn_dim=32, max_source_positions=20)
    models = {
        "bert": lambda: BertModel(bert, add_pooling_layer=False),
        "whisper": lambda: WhisperForAudioClassification(whisper),
    }
    monkeypatch.setattr("benchmarks._encoder_models.MODELS", models)
    monkeypatch.setattr("benchmarks.encoders.MODELS", models)


def test_the_grid_of_encoders_measures_what_is_missing_and_renders(
    tiny_encoders, tmp_path, monkeypatch, capsys
) -> None:
    def run(*more: str) -> dict:
        options = [*TINY, "--threads", str(torch.get_num_threads()), *more]
        monkeypatch.setattr("sys.argv", ["x", *options, "--output", str(tmp_path / "e.json")])
        importlib.import_module("benchmarks.encoders").main()
        file = tmp_path / "e.json"
        return json.loads(file.read_text()) if file.exists() else {}

    assert run("--estimate") == {}
    assert "8 cells, about" in capsys.readouterr().out
    first = run("--dtypes", "float32")
    assert list(first) == [
        *(f"bert, float32, {batch} x 16, forward" for batch in (1, 2)),
        *(f"whisper, float32, {batch} x native, forward" for batch in (1, 2)),
    ]
    second = run()
    assert len(second) == 8
    assert {key: second[key] for key in first} == first
    for cell in second.values():
        assert cell["attention"] == "sdpa"
        assert cell["allocator"]["keeps_freed_pages"]
        row = cell["results"]["conditional, r = 4"]
        assert row["flop_ratio"] > 1
        assert row["time_over_floor"] > 0
    page = encoder_tables(second)
    assert page.count("| 1 x 16 |") == 2
    assert "whisper, bfloat16, 2 shapes, forward, sdpa attention, allocator: glibc" in page
    other = second | {"bert, float32, 2 x 16, forward": second[list(first)[1]] | {"command": "x"}}
    assert page.count("(1 x 16)") == 0
    assert re.search(
        r"commit \w+: `[^`]+` \(1 x 16\), commit \w+: `x` \(2 x 16\)\.", encoder_tables(other)
    )


def test_long_cells_are_left_out_and_said(tiny_encoders, tmp_path, monkeypatch, capsys) -> None:
    options = [*TINY, "--cell-minutes", "0", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr("sys.argv", ["x", *options, "--output", str(tmp_path / "e.json")])
    importlib.import_module("benchmarks.encoders").main()
    output = capsys.readouterr().out
    assert "skipped, longer than 0 min: whisper, bfloat16, 2 x native" in output
    assert "0 cells, about 0 min" in output


def test_a_cell_has_as_many_rounds_as_fit_half_a_minute(tiny_encoders, monkeypatch) -> None:
    def only_cell(speed: float, rounds: int | None = None) -> tuple[Cell, float]:
        monkeypatch.setattr("benchmarks._grid._operations_per_second", lambda dtype: speed)
        (found,) = estimate(["bert"], ["float32"], [2], [16], factors=[4], rounds=rounds)
        return found

    operations = only_cell(1, rounds=1)[1] / 2  # of a round, one more of which warms up
    assert only_cell(operations / 4) == (Cell("bert", "float32", 2, 16, 7), pytest.approx(8 * 4))
    assert only_cell(operations / 100)[0].rounds == 3
    assert only_cell(2 * operations)[0].rounds == 41
    assert only_cell(operations / 4, rounds=5)[0].rounds == 5


def test_the_calls_of_each_piece_of_routing_are_made_again(tmp_path, monkeypatch) -> None:
    module = importlib.import_module("benchmarks.routing_overhead")
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = ca.attach(BertModel(config, add_pooling_layer=False).eval())
    inputs = {"input_ids": torch.randint(100, (2, 16))}
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state
    pieces = module.pieces_of(model, inputs)
    assert {name: len(calls) for name, calls in pieces.items()} == dict.fromkeys(pieces, 2)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).last_hidden_state, expected)  # nothing stays changed
        decision = pieces["choice and weights"][0]()
        states = pieces["weighing and adding back"][-1]()
    assert decision.selected_indices.shape == (2, 4)
    torch.testing.assert_close(states, expected)  # the last layer's own answer
    options = ["--rounds", "3", "--layers", "1", "--tokens", "16", "--batch", "2"]
    options += ["--threads", str(torch.get_num_threads()), "--output", str(tmp_path / "r.json")]
    monkeypatch.setattr("sys.argv", ["x", *options])
    module.main()
    report = json.loads((tmp_path / "r.json").read_text())
    assert list(report["results"]) == ["BERT-base", "MiniLM"]
    assert report["results"]["MiniLM"]["forward pass"]["share_of_forward"] == 1
    assert "| all of routing | " in tables.routing_overhead(report)


def test_the_gpu_benchmark_runs_without_a_gpu_and_keeps_errors_in_their_place(
    tmp_path, monkeypatch
) -> None:
    module = importlib.import_module("benchmarks.gpu")
    options = ["--device", "cpu", "--tiny", "--rounds", "3", "--warmup", "0", "--factors", "4"]
    options += ["--only", "BERT", "operators", "--dtype", "float32"]
    monkeypatch.setattr("sys.argv", ["x", *options, "--output", str(tmp_path / "gpu.json")])

    def failing(*_: object) -> None:
        raise ValueError("no step")

    monkeypatch.setattr("benchmarks._gpu_cells.training_step", failing)
    module.main()
    report = json.loads((tmp_path / "gpu.json").read_text())
    forward = report["results"]["BERT-base, 32 x 512, forward"]
    assert list(forward["eager"]) == ["dense", "dense + adapter, torch", "r = 4, torch"]
    assert forward["eager"]["r = 4, torch"]["flop_ratio"] > 1
    assert forward["about"]["inputs"] == {"input_ids": [2, 16]}
    operators, *branches = report["results"]["operators"].values()
    assert operators["soft_topk, forward and backward"]["torch, eager"]["milliseconds"]["q1"] > 0
    assert len(branches) == 4
    for branch in branches:
        assert branch["norm, scores and adapter"]["torch, eager"]["milliseconds"]["q1"] > 0
    assert "no step" in report["results"]["BERT-base, 32 x 512, step"]["step"]["error"]


def test_the_page_shows_what_failed_on_a_gpu_and_keeps_the_rest() -> None:
    report = read_results()["gpu"]
    whole = gpu_tables(report)
    cell, parts = next((c, p) for c, p in report["results"].items() if "CUDA graph" in p)
    parts["CUDA graph"]["r = 4, torch"] = {"error": "out of memory"}
    parts["eager"] = {"error": "out of memory"}
    lost = gpu_tables(report)
    assert "failed" not in whole
    assert "| r = 4, torch | failed | - | failed | - | - | - |" in lost
    dense = parts["CUDA graph"]["dense"]["milliseconds"]["median"]
    assert cell in lost
    assert f"| dense | failed | - | {dense:.1f} |" in lost


def test_a_recorded_command_has_no_folders_of_the_machine(monkeypatch) -> None:
    inside, outside = str(ROOT / "runs" / "a"), "/somewhere/else/out.json"
    monkeypatch.setattr("sys.argv", ["x", "--workspace", inside, "--output", outside, "a/b", "-r"])
    command = describe_run("benchmarks.x", "transformers")["command"]
    assert command == "python -m benchmarks.x --workspace runs/a --output out.json a/b -r"
