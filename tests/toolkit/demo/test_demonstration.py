"""What the demo says of an input is what the model does with it; bad input becomes a message."""

import re

import numpy as np
import PIL.Image
import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.toolkit.demo import Demonstration
from conditional_adapters.toolkit.tasks.kinds import find_task
from tests.helpers.runner import run
from tests.helpers.tiny_bert import word_tokenizer
from tests.helpers.tiny_classifiers import LABELS, image_classifier, text_classifier
from tests.helpers.tiny_whisper import write_tone, write_whisper

TEXT = "w1 w2 w3 w4 w5 w6 w7 w8 w9"


def probabilities(classifier, inputs, factor):
    ca.set_reduction_factor(classifier.model, factor)
    with torch.no_grad():
        return classifier.model(**inputs).logits[0].softmax(-1).tolist()


def check_classes(demonstration, value, inputs, factor) -> None:
    """Compare an answer with forward passes of the model itself."""
    answer = demonstration.answer(value, factor)
    (shown,) = answer.row.runs
    assert shown.probabilities == pytest.approx(
        probabilities(demonstration.task, inputs, factor), abs=1e-6
    )
    assert answer.row.dense_probabilities == pytest.approx(
        probabilities(demonstration.task, inputs, 1), abs=1e-6
    )
    assert shown.processed.mean() == pytest.approx(1 / factor, abs=1 / shown.processed.shape[1])
    assert len(answer.ours.seconds) == len(answer.dense.seconds) >= 3
    assert (answer.ours is answer.dense) == (factor == 1)  # no speed-up out of noise


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_text_is_classified_at_any_factor_and_densely(factor) -> None:
    classifier = text_classifier(reduction_factor=(1, 2, 8))
    inputs = classifier.processor(TEXT, return_tensors="pt")
    check_classes(Demonstration(classifier), TEXT, inputs, factor)


def test_an_image_file_is_classified_turned_as_its_camera_says(tmp_path) -> None:
    classifier = image_classifier()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # lies on its side: turn it by 90 degrees, clockwise
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(np.rot90(pixels).copy()).save(path, exif=exif)
    inputs = classifier.processor(PIL.Image.fromarray(pixels), return_tensors="pt")
    check_classes(Demonstration(classifier), str(path), inputs, 4)


def test_a_recording_is_heard_at_both_factors_and_its_silence_is_not_shown(tmp_path) -> None:
    torch.manual_seed(0)
    task = find_task("automatic-speech-recognition").load(
        str(write_whisper(tmp_path / "m")), (), max_length=8
    )
    ca.attach(task.model, ca.ConditionalAdapterConfig(reduction_factor=4, adapter_dim=4))
    demonstration = Demonstration(task)
    path = str(write_tone(tmp_path / "tone.wav", 600, seconds=0.8))
    answer = demonstration.answer(path, 4)
    batch = task.collate([{key: values[0] for key, values in task.encode(
        {"audio": [{"bytes": None, "path": path}]}).items()}])  # fmt: skip
    expected = []
    for factor in (1, 4):
        ca.set_reduction_factor(task.model, factor)
        with torch.no_grad(), ca.record_routing(task.model) as routing:
            expected += [text.strip() for text in task.infer(batch)]
    assert [answer.row.dense_transcript, answer.row.runs[0].transcript] == expected
    (shown,) = answer.row.runs
    assert shown.processed.shape == (2, 40)  # 0.8 seconds of 20 ms
    for layer, decision in zip(shown.processed, routing.layers, strict=True):
        chosen = decision.selected_indices[decision.is_selected].tolist()
        assert set(np.flatnonzero(layer)) == {i for i in chosen if i < 40}
    assert shown.view.pixels.shape == (8, 80, 3)
    html = demonstration.show(path, 4)
    assert "Transcript at r = 4" in html
    assert "moments by the number of layers" in html
    assert demonstration.answer(path, 1).row.runs[0].processed.all()
    (tmp_path / "broken.wav").write_bytes(b"no recording")
    problem = demonstration.show(str(tmp_path / "broken.wav"), 4)
    assert "The recording cannot be read" in problem
    assert str(tmp_path) not in problem


def test_factors_are_those_of_an_elastic_adapter_or_a_range_with_a_note() -> None:
    elastic = Demonstration(text_classifier((4, 2, 8)))
    assert (elastic.factors, elastic.start) == ((2, 4, 8), 4)
    fixed = Demonstration(text_classifier(2.5))
    assert fixed.factors == (1, 2, 2.5, *range(3, 17))
    assert fixed.start == 2.5
    assert fixed.answer(TEXT, 2.5).notes == ()
    (note,) = fixed.answer(TEXT, 7).notes
    assert "trained at r = 2.5, not at 7" in note


def test_the_page_shows_the_numbers_and_escapes_what_users_wrote() -> None:
    demonstration = Demonstration(text_classifier())
    value = "<script>alert(1)</script> w1 w2 w3"
    html = demonstration.show(value, 2)
    answer = demonstration.answer(value, 2)
    assert "<script" not in html
    assert "<b>right" not in html  # a class
    assert "&lt;script&gt;" in html
    best = LABELS[int(np.argmax(answer.row.runs[0].probabilities))]
    (prediction,) = re.findall(r'id="prediction">(.*?)</p>', html)
    assert prediction == best.replace("<", "&lt;").replace(">", "&gt;")
    assert re.search(r'id="speed-up">\d+\.\d\dx<', html)
    assert re.search(r'id="tokens">3 of 6<', html)  # CLS, <script>..., w1 to w3, SEP


def test_a_long_text_is_cut_and_that_is_said() -> None:
    (note,) = Demonstration(text_classifier()).answer("w1 " * 50, 2).notes
    assert "has 52 tokens and was truncated to 32: the model did not see its last 20 words" in note


@pytest.mark.parametrize("value", [None, "", "  \n"])
@pytest.mark.parametrize("make, remedy", [(text_classifier, "a text"), (image_classifier, "PNG")])
def test_nothing_gives_a_message(make, remedy, value) -> None:
    html = Demonstration(make()).show(value, 2)
    assert 'role="alert"' in html
    assert "nothing to look at yet" in html
    assert remedy in html


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_a_broken_image_gives_a_message_without_its_path(tmp_path, content) -> None:
    (tmp_path / "x.png").write_bytes(content)
    html = Demonstration(image_classifier()).show(str(tmp_path / "x.png"), 2)
    assert "The image cannot be read" in html
    assert "PNG, JPEG" in html
    assert str(tmp_path) not in html


def test_half_characters_give_a_message() -> None:
    assert "not valid UTF-8" in Demonstration(text_classifier()).show("w1 \ud800", 2)


@pytest.mark.parametrize("factor", [3, 0, float("nan"), None, "2"])
def test_a_factor_that_is_not_offered_is_refused(factor) -> None:
    assert "r must be one of 2, 4, 8" in Demonstration(text_classifier()).show(TEXT, factor)


def test_the_model_is_left_as_it_was() -> None:
    classifier = text_classifier()
    ca.set_reduction_factor(classifier.model, 5)
    classifier.model.train()
    demonstration = Demonstration(classifier)
    demonstration.answer(TEXT, 2)
    assert classifier.model.training
    layers = conditional_layers(classifier.model)
    assert {layer.coda_part("default").reduction_factor for layer in layers} == {5}


def test_other_tasks_are_refused_with_what_to_use(tmp_path) -> None:
    classifier = text_classifier()
    classifier.model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    task = find_task("question-answering").load(str(tmp_path), ())
    with pytest.raises(ca.ConfigError, match=r"do not support question-answering\..*Use coda"):
        Demonstration(task)


def test_without_an_adapter_the_command_says_where_to_get_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", expect=ca.ConfigError)
    assert "--adapter" in str(result.exception)
    assert "coda quickstart" in str(result.exception)
