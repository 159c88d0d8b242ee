"""`coda show` on saved adapters with random weights."""

import json
import re

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset
from matplotlib import image

import conditional_adapters as ca
from conditional_adapters.toolkit.tasks.bundle import load_trained_task, save_task
from conditional_adapters.toolkit.tasks.inference import predict
from conditional_adapters.toolkit.tasks.kinds import find_task
from tests.helpers.runner import run
from tests.helpers.tiny_classifiers import (
    LABELS,
    image_classifier,
    save_with_base,
    text_classifier,
)
from tests.helpers.tiny_text import write_bert
from tests.helpers.tiny_whisper import recogniser, write_tone


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A saved elastic adapter of texts that starts with r = 4."""
    return save_with_base(text_classifier((4, 2, 8)), tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A saved adapter of images that was trained at r = 3, and an image folder."""
    folder = tmp_path_factory.mktemp("images")
    for index, label in enumerate(("left", "other")):
        (folder / "rows" / label).mkdir(parents=True)
        pixels = np.random.default_rng(index).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "rows" / label / "0.png")
    return save_with_base(image_classifier(3), folder)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A saved elastic adapter of a Whisper that starts with r = 4."""
    folder = tmp_path_factory.mktemp("speech")
    task = recogniser(folder / "base", (4, 2, 8))
    return save_task(task, folder / "adapter", base_model=str(folder / "base"))


def data_of(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    )


def test_texts_become_a_page_and_a_picture(texts, tmp_path) -> None:
    output = tmp_path / "new" / "page.html"
    script = "<script>alert('w1')</script> w2"
    result = run(
        "show", "--adapter", texts, "--text", script, "--text", "w3 w4 w5 " * 20, "--output", output
    )
    html = output.read_text(encoding="utf-8")
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", html)
    assert "<b>right" not in html  # a class of this classifier
    data = data_of(html)
    assert data["factors"] == ["2", "4", "8"]
    assert 'aria-valuetext="r = 4"' in html  # as the adapter starts
    assert len(data["rows"]) == 2
    assert image.imread(output.with_suffix(".png")).shape[0] > 100
    assert "page.png, at r = 4" in result.stderr.replace("\n", "")


def test_rows_of_a_file_are_shown_with_their_classes(texts, tmp_path) -> None:
    lines = [{"body": f"w{i} w2 w3 w4", "kind": LABELS[i % 3]} for i in range(5)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    base = ("show", "--adapter", texts, "--data", tmp_path / "x.jsonl", "--text-column", "body")
    output = ("--output", tmp_path / "page.html")
    run(*base, *output, "--rows", 2, "-r", 3)
    html = (tmp_path / "page.html").read_text()
    assert data_of(html)["factors"] == ["3"]
    assert len(data_of(html)["rows"]) == 2
    assert "Right class" not in html
    run(*base, *output, "--label-column", "kind")
    html = (tmp_path / "page.html").read_text()
    assert len(data_of(html)["rows"]) == 3
    assert html.count("Right class") == 3
    assert "&lt;b&gt;right&lt;/b&gt;" in html


def test_images_become_a_page_and_a_picture(images, tmp_path) -> None:
    base = ("show", "--adapter", images, "--data", images.parent / "rows")
    run(*base, "--label-column", "label", "--output", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert data_of(html)["factors"] == ["2", "3", "4", "8"]  # the usual ones and its own
    assert 'aria-valuetext="r = 3"' in html
    assert html.count("data:image/png;base64,") == 4
    assert len(data_of(html)["rows"][0]["counts"][0]) == 24
    assert image.imread(tmp_path / "page.png").shape[0] > 300


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "exactly one of --text, --audio and --data"),
        (("--text", "w1", "--data", "x.csv"), "needs exactly one of"),
        (("--text", "w1", "--audio", "x.wav"), "needs exactly one of"),
        (("--text", "w1", "-r", "1,2"), "must be above 1"),
    ],
)
def test_bad_arguments_say_what_is_wrong(texts, tmp_path, arguments, message) -> None:
    base = ("show", "--adapter", texts, "--output", tmp_path / "x.html")
    result = run(*base, *arguments, expect=ca.ConfigError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_input_that_the_adapter_does_not_read_is_refused(texts, images, speech, tmp_path) -> None:
    for adapter, wrong, remedy in (
        (images, "--text", "for image-classification. Give its input with --data."),
        (texts, "--audio", "for text-classification. Give its input with --text or --data."),
        (speech, "--text", "Give its input with --audio or --data."),
    ):
        base = ("show", "--adapter", adapter, "--output", tmp_path / "x.html")
        result = run(*base, wrong, "w1", expect=ca.ConfigError)
        assert remedy in str(result.exception)


def test_a_task_that_cannot_be_drawn_is_named(tmp_path) -> None:
    task = find_task("token-classification").load(str(write_bert(tmp_path / "m")), ("A", "B"))
    ca.attach(task.model, ca.ConditionalAdapterConfig(adapter_dim=4))
    adapter = save_task(task, tmp_path / "adapter", base_model=str(tmp_path / "m"))
    base = ("show", "--adapter", adapter, "--output", tmp_path / "x.html")
    result = run(*base, "--text", "w1", expect=ca.ConfigError)
    assert "do not support token-classification" in str(result.exception)


def test_recordings_become_a_page_with_both_transcripts_and_a_picture(speech, tmp_path) -> None:
    tones = [write_tone(tmp_path / f"<b>{hertz}.wav", hertz, seconds=0.8) for hertz in (500, 900)]
    output = tmp_path / "page.html"
    given = [word for tone in tones for word in ("--audio", tone)]
    result = run("show", "--adapter", speech, *given, "--output", output)
    html = output.read_text(encoding="utf-8")
    data = data_of(html)
    assert data["factors"] == ["2", "4", "8"]
    assert "Recording 2: &lt;b&gt;900.wav" in html
    assert html.count("Spectrogram of the recording") == 2
    task = load_trained_task(speech)
    for tone, row in zip(tones, data["rows"], strict=True):
        assert {len(counts) for counts in row["counts"]} == {40}  # 0.8 seconds of 20 ms
        recording = Dataset.from_dict({"audio": [{"bytes": None, "path": str(tone)}]})
        heard = {}
        for factor in (1, 2, 4, 8):
            ca.set_reduction_factor(task.model, factor)
            heard[factor] = predict(task, recording)[0]["text"]
        assert row["transcripts"] == [heard[2], heard[4], heard[8]]
        same = heard[1] == heard[4]
        assert row["verdicts"][1] == ("The same transcript." if same else "The transcripts differ.")
    assert image.imread(output.with_suffix(".png")).shape[0] > 100
    assert "page.png, at r = 4" in result.stderr.replace("\n", "")


def test_recordings_of_a_file_are_shown_with_their_right_transcripts(speech, tmp_path) -> None:
    write_tone(tmp_path / "a.wav", 700)
    (tmp_path / "calls.csv").write_text("path,said\na.wav,hello you\n")
    base = ("show", "--adapter", speech, "--data", tmp_path / "calls.csv", "-r", 3)
    named = ("--column", "audio=path", "--label-column", "said")
    run(*base, *named, "--output", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "Right transcript: <b>hello you</b>" in html
    assert "Recording 1: a.wav" in html
    run(*base, *named[:2], "--output", tmp_path / "page.html")
    assert "Right transcript" not in (tmp_path / "page.html").read_text()
