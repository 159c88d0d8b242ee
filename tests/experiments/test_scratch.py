"""A T5 of the experiments' own: from nothing over two ways of pretraining to a table."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from conditional_adapters.toolkit.tasks.inference import predict
from conditional_adapters.training import Objective, SpanCorruption
from experiments import __main__ as command
from experiments import _config
from experiments._data import load_data
from experiments._label_writing import LABEL_WRITING
from experiments._results import read_results
from experiments._scratch import make_blocks, run_scratch, train_tokenizer
from experiments._tables import table
from tests.helpers.experiments import write_words

SETTINGS = {"max_steps": 4, "batch_size": 4, "save_every": 10, "log_every": 1}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Experiments, run once."""
    root = tmp_path_factory.mktemp("scratch")
    write_words(root / "data.csv", ("even number", "odd"), longest=30)
    data = {"source": str(root / "data.csv"), "test_rows": 30}
    files = {
        "t5/scratch": {
            "title": "T5", "data": [data], "vocabulary": 60, "block": 16, "settings": SETTINGS,
            "optimizer": "adafactor",
            "model": {
                "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 32, "num_layers": 2,
                "feed_forward_proj": "gated-gelu",
            },
        },
        "distilled/pretraining": {
            "title": "distilled", "model": "own:t5", "data": [data], "settings": SETTINGS,
            "adapter": {"reduction_factor": [2, 4], "adapter_dim": 8}, "max_length": 32,
        },
        "spans/pretraining": {
            "title": "spans", "model": "own:t5", "data": [data], "objective": "spans",
            "settings": {**SETTINGS, "trainable": "all"},
            "adapter": {"reduction_factor": 2, "adapter_dim": 8}, "max_length": 32,
        },
        "further/pretraining": {
            "title": "further", "model": "own:t5", "data": [data], "start": "spans",
            "settings": {
                **SETTINGS, "max_steps": 1, "trainable": "all", "learning_rate": 1e-9,
                "router_learning_rate": 1e-9, "backbone_learning_rate": 1e-9,
            },
            "adapter": {"reduction_factor": 2, "adapter_dim": 8}, "max_length": 32,
        },
        "words/config": {
            "title": "words", "question": "?", "model": "own:t5", "task": "label-writing",
            "max_length": 32, "data": data, "baseline": "dense", "seeds": [0],
            "training": {"epochs": 1}, "timing_batch": 2,
            "rows": {
                "dense": {"title": "dense", "adapter": {"reduction_factor": 1, "adapter_dim": 8}},
                "distilled": {
                    "title": "distilled", "pretraining": "distilled",
                    "adapter": {"reduction_factor": 4, "adapter_dim": 8},
                },
                "spans": {
                    "title": "spans", "pretraining": "spans",
                    "adapter": {"reduction_factor": 2, "adapter_dim": 8},
                },
            },
        },
    }  # fmt: skip
    for path, values in files.items():
        file = root / "experiments" / f"{path}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_config, "FOLDER", root / "experiments")
        patch.chdir(root)
        failed = CliRunner().invoke(command.app, ["run", "words"])
        assert "Run `python -m experiments scratch t5` first" in str(failed.exception)
        for arguments in (
            ("scratch", "t5"), ("pretrain", "distilled"), ("pretrain", "spans"),
            ("pretrain", "further"), ("run", "words"),
            ("speed", "words", "--rounds", "3"),
        ):  # fmt: skip
            result = CliRunner().invoke(command.app, list(arguments))
            assert result.exit_code == 0, (arguments, result.output, result.exception)
        yield root


def test_the_model_is_trained_and_logged(workspace) -> None:
    stored = json.loads((workspace / "experiments/t5/scratch.json").read_text())
    assert [line["step"] for line in stored["log"]] == [1, 2, 3, 4]
    assert stored["texts"] == 60  # no test text
    assert stored["tokens"] % 16 == 0


def test_rows_start_from_what_each_pretraining_left(workspace) -> None:
    folder = workspace / "runs/experiments"
    assert (folder / "spans/model").is_dir()  # all of it trained
    assert not (folder / "distilled/model").exists()
    lines = {line["method"]: line for line in table("words")}
    assert set(lines) == {"dense", "distilled", "spans"}
    assert lines["distilled"]["FLOPs"] > lines["spans"]["FLOPs"] > "1.00x"


def test_a_pretraining_goes_on_from_another(workspace) -> None:
    folder = workspace / "runs/experiments"
    before, after = (
        load_file(next((folder / name / "adapter").glob("*.safetensors")))
        for name in ("spans", "further")
    )
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, atol=1e-4, rtol=0)  # tiny steps
    assert _config.load_pretraining("further").steps == 4 + 1
    changed = _config.load_pretraining("further").values()
    assert changed["start"] == _config.load_pretraining("spans").values()


def test_a_row_changes_with_how_its_model_was_made(workspace) -> None:
    before = _config.load_experiment("words")
    digests = [before.digest(row) for row in before.rows]
    path = workspace / "experiments/t5/scratch.yaml"
    text = path.read_text()
    try:
        path.write_text(text.replace("title: T5", "title: another"))
        assert [before.digest(row) for row in before.rows] == digests
        path.write_text(text.replace("vocabulary: 60", "vocabulary: 61"))
        after = [before.digest(row) for row in before.rows]
    finally:
        path.write_text(text)
    assert all(new != old for new, old in zip(after, digests, strict=True))


def test_the_class_is_that_of_the_likeliest_name(workspace) -> None:
    experiment = _config.load_experiment("words")
    _, rows = load_data(experiment.data, experiment.kind)
    names = experiment.kind.labels_of(rows)
    folder = str(workspace / "runs/experiments/spans/model")
    task = LABEL_WRITING.load(folder, names, max_length=32)
    processor = task.writer.processor
    found = [prediction["label"] for prediction in predict(task, rows)]
    for row, label in zip(rows, found, strict=True):
        losses = {}
        for name in names:  # one text and one name at a time, without padding
            batch = processor(row["text"], truncation=True, max_length=32, return_tensors="pt")
            written = processor(text_target=name, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                loss = task.model(**batch, labels=written).loss
            losses[name] = float(loss) * written.shape[1]
        assert losses[label] == pytest.approx(min(losses.values()), rel=1e-4)
    accuracy = np.mean(
        [names[row["label"]] == label for row, label in zip(rows, found, strict=True)]
    )
    assert task.score([{"label": label} for label in found], rows)["accuracy"] == accuracy


def test_blocks_hold_all_texts_in_order(workspace) -> None:
    experiment = _config.load_experiment("words")
    rows, _ = load_data(experiment.data, experiment.kind)
    tokenizer = train_tokenizer(rows, 60)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    blocks = make_blocks(rows, tokenizer, 16)["input_ids"]
    tokens = [token for text in rows["text"] for token in tokenizer(text)["input_ids"]]
    assert [token for block in blocks for token in block] == tokens[: len(tokens) // 16 * 16]
    assert tokens.count(1) == len(rows)


def test_runs_are_kept_by_row(workspace) -> None:
    assert set(read_results("words")["runs"]) == {"dense", "distilled", "spans"}


def test_a_killed_training_from_scratch_ends_with_the_weights_of_a_whole_one(
    workspace, monkeypatch
) -> None:
    scratch = _config.load_scratch("t5")
    scratch = scratch.model_copy(update={"settings": {**SETTINGS, "save_every": 2}})
    run_scratch(scratch, workspace / "whole", resume=False)
    calls = []

    def loss(self, model, batch):
        calls.append(batch)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return Objective.loss(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SpanCorruption, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            run_scratch(scratch, workspace / "killed", resume=False)
    run_scratch(scratch, workspace / "killed", resume=True)
    whole, killed = (
        load_file(workspace / name / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(killed[name], tensor, atol=1e-6, rtol=1e-6)
