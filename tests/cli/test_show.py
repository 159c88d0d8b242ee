"""`coda show` on saved adapters with random weights."""

import json
import re

import numpy as np
import PIL.Image
import pytest
from matplotlib import image

import conditional_adapters as ca
from tests.cli.runner import run
from tests.tasks.tiny_classifiers import (
    LABELS,
    image_classifier,
    save_with_base,
    text_classifier,
)


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
        ((), "either --text or --data"),
        (("--text", "w1", "--data", "x.csv"), "either --text or --data"),
        (("--text", "w1", "-r", "1,2"), "must be above 1"),
    ],
)
def test_bad_arguments_say_what_is_wrong(texts, tmp_path, arguments, message) -> None:
    base = ("show", "--adapter", texts, "--output", tmp_path / "x.html")
    result = run(*base, *arguments, expect=ca.ConfigError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_text_for_a_classifier_of_images_is_refused(images, tmp_path) -> None:
    base = ("show", "--adapter", images, "--output", tmp_path / "x.html")
    result = run(*base, "--text", "w1", expect=ca.ConfigError)
    assert "classifies images" in str(result.exception)
