"""`coda export` on a tiny BERT with a head, a tokenizer and an adapter."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import conditional_adapters as ca
from conditional_adapters.integrations.onnx import read_metadata, run_onnx
from conditional_adapters.toolkit.tasks.bundle import load_trained_classifier, save_task
from conditional_adapters.toolkit.tasks.models import load_classifier
from tests.helpers.runner import run
from tests.helpers.tiny_bert import word_tokenizer, write_bert

# Exporting traces the model, which checks of shapes would take part in.
pytestmark = pytest.mark.compile

WORDS = ["a", "text", "one", "two", "three", "more", "of", "longer"]
TEXTS = ["a text of three", "one two three more of a longer text, and two more", "text"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    write_bert(root / "model", word_tokenizer(WORDS, max_length=24))
    classifier = load_classifier(str(root / "model"), ["animals", "plants"], max_length=20)
    ca.attach(classifier.model, ca.ConditionalAdapterConfig(reduction_factor=2, adapter_dim=4))
    save_task(classifier, root / "adapter", base_model=str(root / "model"))
    return root / "adapter"


def test_an_exported_file_with_its_tokenizer_gives_the_numbers_of_pytorch(adapter, tmp_path):
    path = tmp_path / "exported" / "model.onnx"
    report = run("export", "--adapter", adapter, "--output", path, "-r", 3, "--json").stdout
    report = json.loads(report)
    assert report["output"] == str(path)
    assert report["bytes"] == path.stat().st_size
    assert report["same_classes"] is True
    assert report["largest_difference"] < 1e-5
    metadata = read_metadata(path)
    assert json.loads(metadata["labels"]) == ["animals", "plants"]
    assert (metadata["max_length"], metadata["reduction_factor"]) == ("20", "3")
    assert metadata["modality"] == "text"
    tokenizer = AutoTokenizer.from_pretrained(path.parent)
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    found = run_onnx(path, batch)
    for factor, is_same in ((3, True), (2, False)):
        classifier = load_trained_classifier(adapter, reduction_factor=factor)
        with torch.no_grad():
            expected = classifier.model(**batch).logits.numpy()
        assert np.allclose(found, expected, atol=1e-5) is is_same


def test_int8_is_smaller_and_near(adapter, tmp_path):
    sizes = {}
    for name, options in {"full": (), "int8": ("--int8",)}.items():
        path = tmp_path / name / "model.onnx"
        result = run("export", "--adapter", adapter, "--output", path, *options)
        assert "largest difference from PyTorch" in result.stderr
        sizes[name] = path
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "int8")
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    full, rounded = (run_onnx(path, batch) for path in sizes.values())
    assert 0 < np.abs(full - rounded).max() < 0.1 * np.abs(full).max()
    assert (full.argmax(-1) == rounded.argmax(-1)).all()


def test_bad_arguments_say_what_is_wrong(adapter, tmp_path):
    path = tmp_path / "model.onnx"
    result = run(
        *("export", "--adapter", adapter, "--output", path, "--opset", 9), expect=ca.ConfigError
    )
    assert "from 18 to 22, got 9" in str(result.exception)


def test_a_missing_package_is_named(adapter, tmp_path, monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "conditional_adapters.integrations.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    monkeypatch.delitem(
        __import__("sys").modules, "conditional_adapters.integrations._onnx_operators"
    )
    path = tmp_path / "model.onnx"
    result = run("export", "--adapter", adapter, "--output", path, expect=ca.ConfigError)
    assert "onnxscript" in str(result.exception)
    assert "conditional-adapters[onnx]" in str(result.exception)
