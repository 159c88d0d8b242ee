"""The harness of the quality experiments, on a tiny model and real files."""

import json
from operator import methodcaller

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from experiments import __main__ as command
from experiments import _config, _jobs
from experiments._config import load_experiment
from experiments._methods import build_task
from experiments._quality import ACCURACY, Outcomes
from experiments._report import render
from experiments._results import read_results, update_json
from experiments._tables import difference, interval, table
from tests.helpers.experiments import invoke, write_words
from tests.helpers.tiny_bert import word_tokenizer, write_bert

EXPERIMENT = {
    "title": "Even and odd words",
    "question": "Does the harness work?",
    "max_length": 16,
    "data": {"test_rows": 30, "validation_rows": 20},
    "baseline": "dense",
    "seeds": [0, 1],
    "timing_batch": 4,
    "training": {"epochs": 8, "learning_rate": 0.005, "router_learning_rate": 0.005},
    "rows": {
        "dense": {"title": "dense adapters", "adapter": {"reduction_factor": 1}},
        "elastic": {
            "title": "elastic",
            "adapter": {"reduction_factor": [2, 4]},
            "reduction_factors": [2, 4],
            "seeds": [0],
            "group": "Elastic",
            "compare": {4: "half"},
        },
        "lora": {"title": "LoRA", "method": "lora", "rank": 2},
        "full": {
            "title": "all",
            "method": "full",
            "training": {"learning_rate": 0.001},
            "seeds": [0],
        },
        "probe": {"title": "probe", "method": "probe", "seeds": [0]},
        "half": {
            "title": "half",
            "num_layers": 2,
            "adapter": {"reduction_factor": 1},
            "seeds": [0],
        },
        "short": {
            "title": "short",
            "max_length": 8,
            "adapter": {"reduction_factor": 1},
            "seeds": [0],
        },
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of experiments with one experiment, a model and a data set."""
    write_bert(tmp_path / "model", word_tokenizer(), num_layers=4)
    write_words(tmp_path / "data.csv", ("even", "odd"), longest=12)
    (tmp_path / "docs").mkdir()
    root = tmp_path / "experiments"
    (root / "words").mkdir(parents=True)
    monkeypatch.setattr(_config, "FOLDER", root)
    monkeypatch.chdir(tmp_path)
    write(root)
    return root


def write(root, **changes):
    values = {**EXPERIMENT, "model": str(root.parent / "model"), **changes}
    values["data"] = {**values["data"], "source": str(root.parent / "data.csv")}
    (root / "words" / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_every_row_runs_once_and_again_only_when_it_changes(folder, monkeypatch) -> None:
    invoke("run", "words")
    runs = read_results("words")["runs"]
    assert {row: set(by_seed) for row, by_seed in runs.items()} == {
        row: {str(seed) for seed in values.get("seeds", [0, 1])}
        for row, values in EXPERIMENT["rows"].items()
    }
    for by_seed in runs.values():
        for run in by_seed.values():
            assert (run["rows"], run["training_rows"], run["steps"]) == (30, 60, 8 * 8)
            for result in run["results"]:
                right = ACCURACY.unpack(result, 30).points
                assert result["accuracy"] == pytest.approx(right.mean(), abs=1e-5)
            assert run["versions"]["torch"] == torch.__version__
            assert len(run["commit"]) == 40
    dense = runs["dense"]["0"]["results"][0]["accuracy"]
    assert dense > 0.7  # chance is 0.5
    assert runs["probe"]["0"]["new_parameters"] == 0
    assert runs["lora"]["0"]["new_parameters"] == 4 * 2 * 2 * 2 * 32  # layers, q and v, A and B
    assert runs["full"]["0"]["new_parameters_share"] > 0.9
    flops = {
        row: runs[row]["0"]["results"][0]["flops_per_row"] for row in ("dense", "half", "short")
    }
    assert flops["dense"] / flops["half"] == pytest.approx(2, rel=0.01)  # 2 of 4 layers
    assert 2 < flops["dense"] / flops["short"] < 2.5  # 8 of 16 tokens
    calls = []

    def run_row(_experiment, _name, row, seed, _workspace):
        calls.append((row, seed))
        return {}

    monkeypatch.setattr(_jobs, "run_row", run_row)
    monkeypatch.setattr(_jobs, "write_run", lambda *_: None)
    invoke("run", "words")
    assert calls == []
    rows = {**EXPERIMENT["rows"], "lora": {"title": "LoRA", "method": "lora", "rank": 3}}
    rows["probe"] = {**rows["probe"], "title": "another title", "group": "x", "compare": "dense"}
    write(folder, rows=rows)
    invoke("run", "words")
    assert calls == [("lora", 0), ("lora", 1)]


def test_processes_lose_none_of_each_others_results_and_go_on_after_an_error(tmp_path) -> None:
    path = tmp_path / "results.json"
    jobs = [(path, {}, methodcaller("update", {str(number): number})) for number in range(24)]
    jobs.insert(1, (path, {}, methodcaller("no_such_method")))
    with pytest.raises(SystemExit, match="can be run again"):
        _jobs.do_all(update_json, jobs, processes=3, threads=1)
    assert json.loads(path.read_text()) == {str(number): number for number in range(24)}


@pytest.mark.compile
def test_speeds_of_compiled_encoders_are_kept_beside_the_others(folder) -> None:
    torch._dynamo.reset()
    invoke("run", "words", "--rows", "dense,elastic", "--seeds", "0")
    invoke("speed", "words", "--rows", "elastic", "--rounds", "3", "--compile")
    results = read_results("words")
    assert results["speed"] == {}
    assert set(results["compiled_speed"]) == {"dense", "elastic@2", "elastic@4", "measurement"}
    line = table("words")[0]
    assert (line["compiled"], line["encoder"]) == ("1.00x", "-")
    # One after the other, in either order, neither is lost.
    invoke("speed", "words", "--rows", "elastic", "--rounds", "3")
    assert read_results("words")["compiled_speed"] == results["compiled_speed"]
    assert table("words")[0]["encoder"] == "1.00x"


def test_speeds_and_the_page(folder) -> None:
    invoke("run", "words", "--rows", "dense,elastic,half", "--seeds", "0")
    invoke("speed", "words", "--rows", "elastic", "--rounds", "3")
    assert set(read_results("words")["speed"]) >= {"dense", "elastic@2", "elastic@4"}
    assert "half" not in read_results("words")["speed"]
    lines = [line for line in table("words") if line["method"] != "half"]
    assert [line["method"] for line in lines] == [
        "dense adapters",
        "elastic, r = 2",
        "elastic, r = 4",
    ]
    assert lines[0]["encoder"] == lines[0]["step"] == lines[0]["FLOPs"] == "1.00x"
    assert lines[1]["step"] == "-"  # the steps of an elastic adapter have no one factor
    assert float(lines[2]["FLOPs"][:-1]) > float(lines[1]["FLOPs"][:-1]) > 1.3
    text = render().read_text()
    assert "| dense adapters | " in text
    main, _, elastic = text.partition("### Even and odd words: Elastic\n")
    assert "elastic, r = 2" not in main
    assert "compared with" not in main.partition("## Even")[2]
    header, _, first, second = elastic.strip().splitlines()[:4]
    assert header.endswith(" compared with |")
    assert first.startswith("| elastic, r = 2 |")
    assert first.endswith(" - |")
    reference = read_results("words")["runs"]["half"]["0"]
    run = read_results("words")["runs"]["elastic"]["0"]
    merged = ({"0": {**reference, **reference["results"][0]}}, {"0": {**run, **run["results"][1]}})
    expected = difference(ACCURACY, merged[1], merged[0])
    assert second.endswith(f"| half: {expected} |")
    assert "LoRA" not in text
    assert (folder.parent / "docs" / "images" / "experiment-words.png").stat().st_size > 10_000


def test_tuning_tries_the_same_rates_for_each_row_on_validation_rows(folder, monkeypatch) -> None:
    write(folder, learning_rates=[1e-6, 0.005])
    untuned = {row: load_experiment("words").digest(row) for row in ("dense", "probe")}
    invoke("tune", "words", "--rows", "dense,probe")
    tuning = json.loads((folder / "words" / "tuning.json").read_text())
    assert {row: set(entry["accuracy"]) for row, entry in tuning.items()} == {
        "dense": {"1e-06", "0.005"},
        "probe": {"1e-06", "0.005"},
    }
    for entry in tuning.values():  # 20 validation rows
        for (accuracy,) in entry["accuracy"].values():  # of one seed
            assert 20 * accuracy == round(20 * accuracy)
    assert tuning["dense"]["learning_rate"] == 0.005
    experiment = load_experiment("words")
    assert experiment.digest("dense") == untuned["dense"]  # as in the file: no run is lost
    tuning["probe"]["learning_rate"] = 1e-6
    (folder / "words" / "tuning.json").write_text(json.dumps(tuning))
    experiment = load_experiment("words")
    settings = experiment.row_settings("probe")[1]
    assert settings.learning_rate == settings.router_learning_rate == 1e-6
    assert experiment.digest("probe") != untuned["probe"]
    monkeypatch.setattr("experiments._tune.run_row", None)
    invoke("tune", "words", "--rows", "dense,probe")  # nothing is trained again
    rows = {**EXPERIMENT["rows"], "probe": {**EXPERIMENT["rows"]["probe"], "max_length": 8}}
    write(folder, rows=rows)
    assert set(load_experiment("words").tuned) == {"dense"}  # another row is no longer tuned


def test_a_rate_that_fails_with_another_seed_is_not_chosen(folder, monkeypatch) -> None:
    write(folder, learning_rates=[0.001, 0.002, 0.005], seeds=[0, 1, 2])
    accuracies = {0.001: [0.5], 0.002: [0.8, 0.8, 0.7], 0.005: [0.9, 0.2]}
    trained = []

    def run_row(experiment, name, row, seed, workspace):
        rate = experiment.tuned[row]
        trained.append((rate, seed))
        return {"results": [{"accuracy": accuracies[rate][seed]}]}

    monkeypatch.setattr("experiments._tune.run_row", run_row)
    invoke("tune", "words", "--rows", "dense", "--seeds", "3")
    entry = json.loads((folder / "words" / "tuning.json").read_text())["dense"]
    assert entry["learning_rate"] == 0.002
    assert entry["accuracy"] == {f"{rate:g}": values for rate, values in accuracies.items()}
    assert trained == [(0.001, 0), (0.002, 0), (0.005, 0), (0.005, 1), (0.002, 1), (0.002, 2)]
    output = CliRunner().invoke(command.app, ["tune", "words", "--seeds", "4"])
    assert output.exit_code == 2
    assert "3 seeds; got 4" in output.output


def test_the_kept_layers_are_spread_evenly(folder, tmp_path) -> None:
    experiment = load_experiment("words")
    whole = build_task(experiment, experiment.rows["dense"], ["even", "odd"], tmp_path)
    half = build_task(experiment, experiment.rows["half"], ["even", "odd"], tmp_path)
    layers, kept = whole.model.bert.encoder.layer, half.model.bert.encoder.layer
    for kept_layer, index in zip(kept, (1, 3), strict=True):
        weight = layers[index].attention.self.query.weight
        torch.testing.assert_close(kept_layer.attention.self.query.weight, weight, rtol=0, atol=0)
    assert build_task(experiment, experiment.rows["short"], ["a", "b"], tmp_path).max_length == 8


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"baseline": "nothing"}, "baseline 'nothing'"),
        ({"rows": {"dense": {"title": "x", "rnak": 2}}}, "rnak"),
        ({"rows": {"dense": {"title": "x", "adapter": {"epsilon": -1}}}}, "epsilon must be"),
        ({"training": {"epochs": -1}}, "epochs must be above 0"),
        ({"training": {"epoch": 1}}, "epoch"),
        (
            {"rows": {"dense": {"title": "x", "compare": "r4"}}},
            "dense is compared with 'r4', which is not one of the rows: dense",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(folder, changes, words) -> None:
    write(folder, **changes)
    with pytest.raises(SystemExit, match=words) as caught:
        load_experiment("words")
    assert "config.yaml" in str(caught.value)


def test_an_unknown_experiment_or_row_lists_the_known_ones(folder) -> None:
    with pytest.raises(SystemExit, match="There are: words"):
        load_experiment("other")
    result = CliRunner().invoke(command.app, ["run", "words", "--rows", "densest"])
    assert "it has ['dense'" in str(result.exception)


def packed(right):
    return ACCURACY.pack(Outcomes(np.asarray(right), np.ones(len(right))))


def test_packing_keeps_every_row() -> None:
    for size in (1, 8, 13, 725):
        right = np.random.default_rng(size).random(size) < 0.7
        assert (ACCURACY.unpack(packed(right), size).points == right).all()


def test_the_interval_of_one_seed_is_that_of_a_mean() -> None:
    deltas = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=(1, 2000))
    lower, upper = interval(deltas, np.ones(2000))
    half = 1.96 * deltas.std() / np.sqrt(2000)
    assert lower == pytest.approx(deltas.mean() - half, abs=0.1 * half)
    assert upper == pytest.approx(deltas.mean() + half, abs=0.1 * half)


def test_seeds_that_differ_widen_the_interval() -> None:
    deltas = np.zeros((3, 1000))
    assert interval(deltas, np.ones(1000)) == (0, 0)
    deltas[0] = 1.0  # one of three seeds is better everywhere: resamples have 0 to 3 of it
    lower, upper = interval(deltas, np.ones(1000))
    assert lower == 0
    assert upper > 0.6


def test_differences_are_paired_by_seed_and_row() -> None:
    right = np.array([True, True, False, False])
    runs = {"0": {**packed(right), "rows": 4}, "5": {**packed(right), "rows": 4}}
    reference = {"0": {**packed(~right), "rows": 4}}
    assert difference(ACCURACY, runs, reference).startswith("+0.0 ")
    assert difference(ACCURACY, {"5": runs["5"]}, reference) == "-"
