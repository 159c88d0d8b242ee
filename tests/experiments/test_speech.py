"""The harness of the quality experiments on speech: a tiny Whisper and tones in real files."""

import json

import numpy as np
import pytest
import torch
import yaml
from datasets import concatenate_datasets

import conditional_adapters as ca
from experiments import _config
from experiments._config import load_experiment
from experiments._data import load_data, timing_batch, unlabelled_rows
from experiments._methods import build_task
from experiments._quality import WORD_ERROR_RATE
from experiments._report import render
from experiments._results import read_results
from experiments._run import count_flops
from experiments._tables import _parts, difference, interval, table
from tests.helpers.experiments import invoke
from tests.helpers.tiny_whisper import write_tone, write_whisper

ROWS = {
    "dense": {"title": "dense", "adapter": {"reduction_factor": 1}, "seeds": [0]},
    "pretrained": {
        "title": "r = 5",
        "adapter": {"reduction_factor": 5},
        "pretraining": "window",
        "seeds": [0],
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = write_whisper(tmp_path / "model")
    lines = ["audio,text"]
    for index in range(16):
        name, frequency = (("low", 300), ("high note", 2500))[index % 2]
        write_tone(tmp_path / f"{index}.wav", frequency + index, seconds=0.2 + 0.02 * index)
        lines.append(f"{index}.wav,{name} {index}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "docs").mkdir()
    root = tmp_path / "experiments"
    data = {"source": str(tmp_path / "data.csv"), "test_rows": 6}
    experiment = {
        "title": "Tones",
        "question": "Does the harness work?",
        "model": str(model),
        "max_length": 20,
        "data": data,
        "baseline": "dense",
        "timing_batch": 4,
        "training": {"epochs": 1, "batch_size": 4},
        "rows": ROWS,
    }
    pretraining = {
        "title": "of the window",
        "model": str(model),
        "data": [data, {"source": str(tmp_path / "data.csv"), "train_rows": 3}],
        "adapter": {"reduction_factor": 2},
        "settings": {
            "max_steps": 4, "batch_size": 2, "trainable": "all", "save_every": 2, "log_every": 1,
        },
    }  # fmt: skip
    for name, file, values in (
        ("tones", "config", experiment),
        ("window", "pretraining", pretraining),
    ):
        (root / name).mkdir(parents=True)
        (root / name / f"{file}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.setattr(_config, "FOLDER", root)
    monkeypatch.chdir(tmp_path)
    return root


def test_speech_is_pretrained_trained_timed_and_judged_by_its_words(folder) -> None:
    invoke("pretrain", "window")
    log = json.loads((folder / "window" / "pretraining.json").read_text())
    assert (log["rows"], len(log["log"])) == (10 + 3, 4)
    workspace = folder.parent / "runs" / "experiments"
    assert (workspace / "window" / "model" / "config.json").exists()
    invoke("run", "tones")
    runs = read_results("tones")["runs"]
    assert set(runs) == set(ROWS)
    for by_seed in runs.values():
        run = by_seed["0"]
        assert (run["rows"], run["training_rows"], run["steps"]) == (6, 10, 3)
        outcomes = WORD_ERROR_RATE.unpack(run["results"][0], 6)
        assert outcomes.sizes.min() >= 2
        wer = outcomes.points.sum() / outcomes.sizes.sum()
        assert run["results"][0]["wer"] == pytest.approx(wer, abs=1e-5)
    invoke("speed", "tones", "--rounds", "3")
    lines = {line["method"]: line for line in table("tones")}
    assert all("word error rate (lower is better)" in line for line in lines.values())
    assert all(line["encoder"] != "-" != line["step"] for line in lines.values())
    times_fewer = {name: float(line["FLOPs"][:-1]) for name, line in lines.items()}
    assert times_fewer["r = 5"] > 1
    assert "| method | word error rate (lower is better) | seeds |" in render().read_text()


def test_operations_of_recordings_are_the_mean_over_their_own_budgets(folder) -> None:
    experiment = load_experiment("tones")
    row = experiment.rows["pretrained"].model_copy(update={"pretraining": None})
    task = build_task(experiment, row, (), folder)
    # Clips of 0.2 to 0.5 seconds have 10 to 25 tokens, and a fifth of the window 20.
    rows = concatenate_datasets(load_data(experiment.data, experiment.kind))
    totals, budgets = [], []
    for index in range(len(rows)):
        batch = timing_batch(task, rows.select([index]), 1)
        del batch["labels"]
        with torch.no_grad(), ca.record_routing(task.model) as routing:
            task.model.get_encoder()(**batch)
        budgets.append(int(routing.layers[0].is_selected.sum()))
        totals.append(ca.estimate_flops(task.model, inputs=batch).total)
    assert sorted(budgets) == [20] * 11 + [21, 22, 23, 24, 25]
    found = count_flops(task, rows)
    assert found.total == round(sum(totals) / len(totals))
    assert 1 < found.ratio < found.dense / min(totals)


def test_unlabelled_rows_are_the_training_part_or_the_whole_source(folder) -> None:
    experiment = load_experiment("tones")
    held_out, whole = (
        unlabelled_rows(data, experiment.kind)
        for data in (experiment.data, experiment.data.model_copy(update={"test_rows": None}))
    )
    assert (len(held_out), len(whole)) == (10, 16)
    assert held_out.column_names == whole.column_names == ["audio"]
    test = {cell["path"] for cell in load_data(experiment.data, experiment.kind)[1]["audio"]}
    assert not test & {cell["path"] for cell in held_out["audio"]}


def test_a_difference_of_word_error_rates_is_one_of_sums() -> None:
    def run(errors):
        return {"word_errors": errors, "words": "10 1 1", "rows": 3}

    difference_text = difference(WORD_ERROR_RATE, {"0": run("2 0 1")}, {"0": run("0 1 1")})
    assert difference_text.startswith("+8.3 (")  # (3 - 2) / 12, and not the mean of 0.2, -1 and 0


def test_rows_of_few_words_are_shown_apart_from_longer_ones(folder) -> None:
    experiment = load_experiment("tones").model_copy(update={"words_apart": 4})

    def run(errors):
        return {"word_errors": errors, "words": "10 4 1", "rows": 3}

    line = _parts(experiment, {"0": run("5 2 0")}, {"0": run("0 1 0")})
    assert line["up to 4 words"].startswith("40.0 %, +20.0 (")
    assert line["longer"].startswith("50.0 %, +50.0 (")
    assert _parts(experiment, {"0": run("5 2 0")}, {})["longer"] == "50.0 %"


def test_the_interval_of_a_word_error_rate_resamples_clips_with_their_words() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 20, size=500)
    lower, upper = interval(sizes[None] * 0.25, sizes)  # the same rate in every clip
    assert lower == pytest.approx(0.25) == upper
    deltas = rng.binomial(sizes, 0.2)[None].astype(float)
    lower, upper = interval(deltas, sizes)
    ratio = deltas.sum() / sizes.sum()
    # The delta method: the ratio's error is that of the mean of residuals over the mean size.
    half = 1.96 * (deltas - ratio * sizes).std() / np.sqrt(500) / sizes.mean()
    assert lower == pytest.approx(ratio - half, abs=0.1 * half)
    assert upper == pytest.approx(ratio + half, abs=0.1 * half)
