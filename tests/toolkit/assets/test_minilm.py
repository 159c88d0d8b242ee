"""MiniLM: the tensors of the file, the outputs of transformers' own loader, the tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel

from conditional_adapters.errors import AssetError
from conditional_adapters.toolkit.assets import (
    ASSETS,
    bbc_news,
    load_packaged_model,
    load_packaged_tokenizer,
    packaged_model_names,
)
from conditional_adapters.toolkit.assets._catalogue import verified_path

SENTENCES = ["The cat sits on the mat.", "A cat rests upon a rug.", "Interest rates rose again."]


@pytest.fixture(scope="module")
def folder(needs) -> Path:
    needs("minilm")
    return verified_path("minilm").parent


@pytest.fixture(scope="module")
def model(folder):
    return load_packaged_model("minilm")


def test_the_weights_are_those_of_the_file(folder, model):
    # Read by hand: 8 bytes of length, a JSON header with offsets, then raw float32.
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    own = model.state_dict()
    assert set(own) == set(header) - {"__metadata__", "embeddings.position_ids"}
    for name, tensor in own.items():
        begin, end = (start + offset for offset in header[name]["data_offsets"])
        expected = np.frombuffer(raw[begin:end], dtype="<f4").reshape(header[name]["shape"])
        np.testing.assert_array_equal(tensor.numpy(), expected, err_msg=name)


def test_it_is_the_model_that_transformers_loads_from_the_folder(folder, model):
    assert type(model) is BertModel
    original = AutoModel.from_pretrained(folder)
    inputs = load_packaged_tokenizer("minilm")(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(
            model(**inputs).last_hidden_state,
            original(**inputs).last_hidden_state,
            rtol=0,
            atol=1e-6,
        )


def test_sentences_of_equal_meaning_are_close(model):
    inputs = load_packaged_tokenizer("minilm")(SENTENCES, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        hidden_states = model(**inputs).last_hidden_state
    means = (hidden_states * mask).sum(1) / mask.sum(1)
    similarity = torch.nn.functional.cosine_similarity(means[:1], means[1:])
    assert similarity[0] > 0.5
    assert similarity[1] < 0.2


def test_a_classifier_has_the_backbone_of_the_file(model):
    classifier = load_packaged_model(
        "minilm", AutoModelForSequenceClassification, num_labels=5, attn_implementation="eager"
    )
    torch.testing.assert_close(
        dict(classifier.bert.state_dict()), dict(model.state_dict()), rtol=0, atol=0
    )
    assert classifier.classifier.out_features == 5
    assert classifier.name_or_path == "packaged:minilm"


@pytest.mark.parametrize("name", ["minilm", "whisper"])
def test_the_tokenizer_agrees_with_the_tokenizers_library(needs, name):
    needs(name)
    needs("bbc_news")
    original = Tokenizer.from_file(str(verified_path(f"{name}/tokenizer")))
    original.no_truncation()
    original.no_padding()
    tokenizer = load_packaged_tokenizer(name)
    texts = [article.text[:400] for article in bbc_news()[::20]]
    assert tokenizer(texts).input_ids == [e.ids for e in original.encode_batch(texts)]
    assert tokenizer.name_or_path == f"packaged:{name}"


def test_the_tokenizer_pads_and_knows_the_longest_input(needs):
    needs("minilm")
    tokenizer = load_packaged_tokenizer("minilm")
    batch = tokenizer(["word " * 600, "word"], truncation=True, padding=True)
    assert [len(row) for row in batch.input_ids] == [512, 512]
    assert sum(batch.attention_mask[1]) == 3


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    assert packaged_model_names() == ("minilm", "dinov2", "whisper")
    with pytest.raises(AssetError, match=r"model 'bert'. Known names: minilm, dinov2, whisper"):
        load_packaged_model("bert")
    with pytest.raises(AssetError, match=r"tokenizer 'dinov2'. Known names: minilm, whisper"):
        load_packaged_tokenizer("dinov2")


def test_every_model_has_a_pinned_file():
    assert set(packaged_model_names()) < set(ASSETS)
