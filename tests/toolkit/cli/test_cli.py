"""The commands, run in this process on a tiny BERT and on real files."""

import csv
import json
import random

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from conditional_adapters import CheckpointError, ConfigError, DataError, read_adapter_config
from tests.helpers.runner import run
from tests.helpers.tiny_bert import word_tokenizer, write_bert

WORDS = {"animals": ["cat", "dog", "owl", "fox"], "plants": ["oak", "elm", "fern", "moss"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local model folder with a tokenizer, and a data set in a CSV file."""
    root = tmp_path_factory.mktemp("cli")
    words = ["the", "a", *WORDS["animals"], *WORDS["plants"]]
    write_bert(root / "model", word_tokenizer(words, max_length=24))
    rng = random.Random(0)
    with (root / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "kind"])
        for index in range(120):
            kind = list(WORDS)[index % 2]
            length = rng.randint(3, 12)
            writer.writerow([" ".join(rng.choices([*WORDS[kind], "the", "a"], k=length)), kind])
    return root


TRAIN = ("--text-column", "words", "--label-column", "kind", "--adapter-dim", 8, "--batch-size", 8)


@pytest.fixture(scope="module")
def trained(folder):
    output = folder / "run"
    result = run(
        *("train", "--model", folder / "model", "--data", folder / "data.csv", "--output", output),
        *("-r", 2, "--epochs", 8, "--learning-rate", 0.02, "--json", *TRAIN),
    )
    return output, json.loads(result.stdout)


def test_training_learns_and_saves_a_small_adapter(trained) -> None:
    output, summary = trained
    assert summary["accuracy"] > 0.8  # chance is 0.5
    assert summary["test_rows"] == 24
    files = {path.name for path in (output / "adapter").iterdir()}
    saved = {"adapter_config.json", "adapter_model.safetensors", "task.json"}
    assert files == saved | {"measurements.json", "README.md"}
    (result,) = [
        r
        for r in ModelCard.load(output / "adapter" / "README.md").data.eval_results
        if r.metric_type == "accuracy"
    ]
    assert (result.metric_value, result.dataset_split) == (summary["accuracy"], "20% held out")
    assert list(output.rglob("events.out.tfevents*"))


def test_evaluating_the_saved_adapter_gives_an_independent_count(trained, folder) -> None:
    output, _ = trained
    arguments = ("--adapter", output / "adapter", "--data", folder / "data.csv")
    columns = ("--text-column", "words", "--label-column", "kind")
    metrics = json.loads(run("evaluate", *arguments, *columns, "--json").stdout)
    run("predict", *arguments, "--text-column", "words", "--output", folder / "out.jsonl")
    predictions = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    with (folder / "data.csv").open() as file:
        gold = [row["kind"] for row in csv.DictReader(file)]
    assert [row["row"] for row in predictions] == list(range(120))
    right = sum(row["label"] == kind for row, kind in zip(predictions, gold, strict=True))
    assert metrics["rows"] == 120
    assert metrics["accuracy"] == pytest.approx(right / 120)
    for row in predictions:
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-4)
        assert max(row["scores"], key=row["scores"].get) == row["label"]
    prepacked = run("predict", *arguments, "--text-column", "words", "--prepacked").stdout
    for row, line in zip(predictions, prepacked.splitlines(), strict=True):
        assert json.loads(line)["scores"] == pytest.approx(row["scores"], abs=1e-4)


def test_the_attention_mode_is_trained_saved_and_evaluated(folder) -> None:
    base = ("train", "--model", folder / "model", "--data", folder / "data.csv", *TRAIN)
    run(*base, "--output", folder / "all", "--epochs", 1, "--attention-mode", "k_to_all")
    adapter = folder / "all" / "adapter"
    assert read_adapter_config(adapter)["attention_mode"] == "k_to_all"
    columns = ("--text-column", "words", "--label-column", "kind")
    run("evaluate", "--adapter", adapter, "--data", folder / "data.csv", *columns)


def test_an_interrupted_training_resumes_to_the_same_adapter(folder) -> None:
    base = ("train", "--model", folder / "model", "--data", folder / "data.csv", *TRAIN)
    schedule = ("-r", 2, "--schedule", "constant")

    def adapter_after(output, *arguments):
        run(*base, "--output", output, *schedule, *arguments)
        return load_file(output / "adapter" / "adapter_model.safetensors")

    first = adapter_after(folder / "cut", "--epochs", 1)
    resumed = adapter_after(folder / "cut", "--epochs", 2, "--resume")
    straight = adapter_after(folder / "straight", "--epochs", 2)
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert not all(torch.equal(resumed[key], first[key]) for key in first)


def test_a_bad_row_stops_with_file_and_line_or_is_skipped(folder) -> None:
    lines = (folder / "data.csv").read_text().splitlines()
    lines.insert(5, ",plants")
    (folder / "bad.csv").write_text("\n".join(lines) + "\n")
    base = ("train", "--model", folder / "model", "--data", folder / "bad.csv", *TRAIN)
    result = run(*base, "--output", folder / "bad", expect=DataError)
    assert "bad.csv:6" in str(result.exception)
    assert "--on-bad-row skip" in str(result.exception)
    with pytest.warns(UserWarning, match="1 of 121"):
        run(*base, "--output", folder / "bad", "--epochs", 1, "--on-bad-row", "skip")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("--model", "no/such-model"), ConfigError, "cannot load 'no/such-model'"),
        (("--model", "packaged:bertha"), ConfigError, "packaged:minilm"),
        (("-r", "0.5"), ConfigError, "reduction_factor must be .* got 0.5"),
        (("-r", "two"), ConfigError, "must be a number such as 4"),
        (("--attention-mode", "all"), ConfigError, "attention_mode must be .* got 'all'"),
        (("--test-fraction", "2"), ConfigError, "between 0 and 1, got 2.0"),
        (("--text-column", "nope"), DataError, "--text-column"),
        (("--resume",), ConfigError, "nothing to resume"),
    ],
)
def test_bad_arguments_say_what_is_wrong(folder, arguments, error, message) -> None:
    base = ("--model", folder / "model", "--data", folder / "data.csv", "--output", folder / "x")
    result = run("train", *base, *TRAIN, *arguments, expect=error)
    assert __import__("re").search(message, str(result.exception)), result.exception


def test_an_adapter_directory_without_an_adapter_is_refused(folder) -> None:
    result = run("evaluate", "--adapter", folder, "--data", "x", expect=CheckpointError)
    assert "coda train" in str(result.exception)


def test_the_benchmark_times_every_encoder_side_by_side(folder) -> None:
    result = run(
        *("bench", "--model", folder / "model", "-r", 2, "-r", 4, "--sequence-length", 24),
        *("--batch-size", 2, "--rounds", 3, "--adapter-dim", 4, "--json"),
    )
    report = json.loads(result.stdout)
    names = [row["encoder"] for row in report["rows"]]
    assert names == ["dense", "dense + adapter", "conditional, r = 2", "conditional, r = 4"]
    ratios = [row["flop_ratio"] for row in report["rows"]]
    assert ratios[0] > 1 == ratios[1] < ratios[2] < ratios[3]


SMALL = ("--sequence-length", 24, "--batch-size", 2, "--rounds", 3, "--adapter-dim", 4)


def test_the_benchmark_runs_small_batches_dense_if_asked(folder) -> None:
    bench = ("bench", "--model", folder / "model", "-r", 4, *SMALL, "--json")
    report = json.loads(run(*bench, "--dense-below", 49).stdout)
    assert report["setting"].endswith("sdpa, dense below 49 tokens")
    assert report["rows"][2]["flop_ratio"] == 1
    report = json.loads(run(*bench, "--dense-below", 48, "--packed").stdout)
    assert report["setting"].endswith("sdpa, prepacked weights, dense below 48 tokens")
    assert report["rows"][2]["flop_ratio"] > 1


def test_the_benchmark_says_from_which_length_on_routing_pays(folder) -> None:
    bench = ("bench", "--model", folder / "model", "-r", 2, "-r", 4, *SMALL, "--break-even")
    report = json.loads(run(*bench, "--json").stdout)
    assert [row["tokens"] for row in report["rows"]] == [8, 16, 32, 48]
    for factor, limit in report["break_even_tokens"].items():
        gains = [row["tokens"] for row in report["rows"] if row["speed_up"][factor] >= 1]
        assert (limit in gains) if limit else report["rows"][-1]["tokens"] not in gains
    text = run(*bench).stdout
    assert "2 x 16" in text
    assert "r = 4: " in text
    result = run(*bench, "--dense-below", 9, expect=ConfigError)
    assert "leave --dense-below" in str(result.exception)


@pytest.mark.compile
def test_the_benchmark_times_compiled_encoders_too(folder) -> None:
    result = run(
        *("bench", "--model", folder / "model", "-r", 4, "--sequence-length", 24, "--compile"),
        *("--batch-size", 2, "--rounds", 3, "--adapter-dim", 4, "--json"),
    )
    rows = json.loads(result.stdout)["rows"]
    assert [row["encoder"] for row in rows[3:]] == [f"{r['encoder']}, compiled" for r in rows[:3]]
    assert [row["flop_ratio"] for row in rows[3:]] == [row["flop_ratio"] for row in rows[:3]]
    assert rows[4]["speed_up"] == 1 != rows[5]["speed_up"]


def test_the_benchmark_says_what_compiling_needs(folder, monkeypatch) -> None:
    def compiler_is_missing(*_: object, **__: object) -> object:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", compiler_is_missing)
    result = run("bench", "--model", folder / "model", "--compile", expect=ConfigError)
    assert "apt install g++" in str(result.exception)


@pytest.mark.parametrize(
    "verb",
    ["quickstart", "pretrain", "train", "evaluate", "tune", "predict", "show", "export", "bench"],
)
def test_help_explains_every_verb(verb) -> None:
    help_text = run(verb, "--help").stdout
    assert "Usage" in help_text
    assert verb in run("--help").stdout
