"""`coda tune` on a saved adapter with random weights."""

import csv
import json
from dataclasses import replace

import pytest
from matplotlib import image

import conditional_adapters as ca
from conditional_adapters.hub.measurements import read_measurements
from conditional_adapters.toolkit.cli.tune import _verdict
from conditional_adapters.toolkit.tasks.bundle import load_trained_classifier, save_task
from tests.helpers.factor_curves import curve_of, text_rows
from tests.helpers.runner import run
from tests.helpers.tiny_classifiers import LABELS, save_with_base, text_classifier
from tests.helpers.tiny_whisper import recogniser, write_tone

FAST = ("--rounds", 3, "--timing-batch", 2)


@pytest.fixture
def folder(tmp_path):
    """A saved elastic adapter that starts with r = 4, and rows in a file."""
    classifier = text_classifier((4, 2, 8))
    rows = text_rows(30)
    save_with_base(classifier, tmp_path)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((row["text"], LABELS[row["label"]]) for row in rows)
    return tmp_path


def tune(folder, *arguments: object):
    base = ("--adapter", folder / "adapter", "--data", folder / "rows.csv")
    return run("tune", *base, "--output", folder / "tune", *FAST, *arguments)


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}


def test_a_report_a_picture_and_no_change_to_the_adapter(folder) -> None:
    before = files_of(folder)
    report = json.loads(tune(folder, "--max-drop", 100, "--json").stdout)
    assert report == json.loads((folder / "tune" / "tune.json").read_text())
    assert [m["reduction_factor"] for m in report["measurements"]] == [2, 4, 8]  # as trained
    assert (report["rows"], report["reference"]) == (30, 2)
    assert (report["chosen"], report["written"]) == (8, False)
    for m in report["measurements"]:
        argument = ("-r", m["reduction_factor"], "--json")
        data = ("--adapter", folder / "adapter", "--data", folder / "rows.csv")
        assert (
            json.loads(run("evaluate", *data, *argument).stdout)["accuracy"]
            == m["metrics"]["accuracy"]
        )
    assert image.imread(folder / "tune" / "tune.png").shape[0] > 300
    assert files_of(folder) == before


def test_the_chosen_factor_is_written_and_used(folder) -> None:
    before = files_of(folder)
    result = tune(folder, "-r", 2, "-r", "3,8", "--max-drop", 100, "--write")
    assert "it is the default of" in result.stderr
    assert "the largest at most 100 points below the reference r = 2" in result.stderr
    assert all(text in result.stdout for text in ("accuracy", "McNemar", "speed-up", "FLOP ratio"))
    assert ca.read_adapter_config(folder / "adapter")["reduction_factor"] == [8, 4, 2]
    classifier = load_trained_classifier(folder / "adapter")
    layer = classifier.model.bert.encoder.layer[0]
    assert layer.coda_part("default").reduction_factor == 8
    after = files_of(folder)
    assert after.keys() - before.keys() == {"measurements.json"}
    report = json.loads((folder / "tune" / "tune.json").read_text())
    kept = read_measurements(folder / "adapter")
    assert [(m.reduction_factor, m.metrics["accuracy"], m.speed_up) for m in kept] == [
        (m["reduction_factor"], m["metrics"]["accuracy"], m["speed_up"])
        for m in report["measurements"]
    ]
    assert all(m.timed_batch == tuple(report["timed_batch"]) for m in kept)
    assert b"x over r = 2, batch 2 x" in after["README.md"]
    assert after["task.json"] == before["task.json"]


def test_it_is_said_when_no_factor_qualifies_and_nothing_is_written(folder, monkeypatch) -> None:
    from conditional_adapters.toolkit.tasks.tuning import FactorCurve

    monkeypatch.setattr(FactorCurve, "choose", lambda self, max_drop: None)
    before = files_of(folder)
    result = tune(folder, "--write", "--json")
    report = json.loads(result.stdout)
    assert (report["chosen"], report["written"]) == (None, False)
    assert "no r qualifies: every r above the reference r = 2" in result.stderr
    assert "nothing written" in result.stderr
    assert files_of(folder) == before


@pytest.mark.parametrize("lower_end, is_proven", [(-0.004, True), (-0.021, False)])
def test_a_choice_that_the_rows_do_not_prove_says_so(lower_end, is_proven) -> None:
    reference, chosen = curve_of(970, 970).measurements
    chosen = replace(chosen, difference_interval=(lower_end, 0.02))
    curve = replace(curve_of(970, 970), measurements=(reference, chosen))
    verdict = _verdict(curve, chosen, 0.5)
    assert "chosen: r = 2, the largest at most 0.5 points below the reference r = 1" in verdict
    assert ("1,000 rows do not prove it: the true loss may be up to 2.1" in verdict) != is_proven


@pytest.mark.parametrize("higher_end, is_proven", [(0.004, True), (0.021, False)])
def test_errors_are_allowed_to_rise(higher_end, is_proven) -> None:
    reference, chosen = curve_of(50, 50, is_error=True).measurements
    chosen = replace(chosen, difference_interval=(-0.02, higher_end))
    curve = replace(curve_of(50, 50, is_error=True), measurements=(reference, chosen))
    verdict = _verdict(curve, chosen, 0.5)
    assert "chosen: r = 2, the largest at most 0.5 points above the reference r = 1" in verdict
    assert ("1,000 rows do not prove it: the true loss may be up to 2.1" in verdict) != is_proven
    assert "more than 0.5 points of wer" in _verdict(curve, None, 0.5)


def test_rows_that_never_differ_are_said_to_prove_little() -> None:
    curve = curve_of(50, 50, is_error=True)
    alike = replace(curve.measurements[1], num_differing=0)
    assert "none of 1,000 rows differs; with 95 % confidence, at most 0.3%" in _verdict(
        curve, alike, 0.5
    )


def test_speech_is_tuned_and_its_error_rate_goes_into_the_card(tmp_path) -> None:
    task = recogniser(tmp_path / "base", (2, 4))
    save_task(task, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    names = [write_tone(tmp_path / f"{f}.wav", f).name for f in (300, 500, 900)]
    lines = ["file,text", *(f"{name},hello" for name in names)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    arguments = ("--max-drop", 100, "--write", "--json", "--column", "audio=file")
    report = json.loads(tune(tmp_path, *arguments).stdout)
    assert (report["metric"], report["lower_is_better"]) == ("wer", True)
    (kept,) = [m for m in read_measurements(tmp_path / "adapter") if m.reduction_factor == 4]
    assert kept.metrics == report["measurements"][1]["metrics"]
    assert "wer" in (tmp_path / "adapter" / "README.md").read_text()
    table = tune(tmp_path, *arguments[:2], *arguments[4:]).stdout
    assert "wer" in table
    assert "McNemar" not in table


@pytest.mark.parametrize(
    "arguments, message", [(("-r", 4), "at least 2 different"), (("-r", "2,x"), "number such as 4")]
)
def test_bad_factors_say_what_is_wrong(folder, arguments, message) -> None:
    base = ("--adapter", folder / "adapter", "--data", folder / "rows.csv", *FAST)
    result = run("tune", *base, "--output", folder, *arguments, expect=ca.ConfigError)
    assert message in str(result.exception)
