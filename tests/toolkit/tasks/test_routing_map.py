"""What is drawn of a row is what the model did with it, counted by hand."""

import numpy as np
import PIL.Image
import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.toolkit.tasks.routing_map import route_rows
from tests.helpers.tiny_classifiers import LABELS, image_classifier, text_classifier

TEXTS = ["w1 w2  w3\nw4 unknown w5 w6 w7 w8", " ".join(f"w{i % 40}" for i in range(50))]


def image_of(index: int = 0) -> PIL.Image.Image:
    """Return an image of random pixels, with the size that the model takes."""
    pixels = np.random.default_rng(index).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def by_hand(classifier, inputs, factor):
    """Run a row at r; return its probabilities and the set of tokens that each layer chose."""
    ca.set_reduction_factor(classifier.model, factor)
    with torch.no_grad(), ca.record_routing(classifier.model) as routing:
        probabilities = classifier.model(**inputs).logits[0].softmax(-1)
    chosen = [None if d is None else set(d.selected_indices[0].tolist()) for d in routing.layers]
    return probabilities.tolist(), chosen


def inputs_of(classifier, content):
    if classifier.modality == "image":
        return classifier.processor(content, return_tensors="pt")
    return classifier.processor(content, truncation=True, max_length=32, return_tensors="pt")


@pytest.mark.parametrize("make", [text_classifier, image_classifier])
def test_every_run_is_what_the_model_does_at_that_factor(make) -> None:
    classifier = make(dense_layers=(1,))
    contents = TEXTS if make is text_classifier else [image_of(0), image_of(1)]
    rows = route_rows(classifier, contents, (8, 2, 2.0), gold=["left", "other"])
    for row, content, gold in zip(rows, contents, ["left", "other"], strict=True):
        assert row.gold == gold
        assert [run.reduction_factor for run in row.runs] == [2, 8]
        assert list(row.is_routed) == [True, False, True]
        inputs = inputs_of(classifier, content)
        assert row.dense_probabilities == pytest.approx(by_hand(classifier, inputs, 1)[0])
        for run in row.runs:
            probabilities, chosen = by_hand(classifier, inputs, run.reduction_factor)
            assert run.probabilities == pytest.approx(probabilities)
            assert run.processed.shape == (3, len(row.tokens))
            for layer, tokens in zip(run.processed, chosen, strict=True):
                everything = set(range(len(row.tokens)))
                assert set(np.flatnonzero(layer)) == (everything if tokens is None else tokens)
            predicted = LABELS[int(np.argmax(probabilities))]
            assert run.view.title == (
                f"r = {run.reduction_factor:g}: predicted {predicted}, gold {gold}"
            )


def test_words_count_the_routed_layers_and_cut_words_are_counted() -> None:
    short, long = route_rows(text_classifier(dense_layers=(1,)), TEXTS, (4,))
    assert list(short.runs[0].view.words) == TEXTS[0].split()
    assert short.num_cut_words == 0
    assert len(long.runs[0].view.words) == 30  # 32 tokens, of which two are special
    assert long.num_cut_words == 20
    assert list(short.tokens) == ["[CLS]", "w1", "w2", "w3", "w4", "[UNK]", *TEXTS[0].split()[5:],
                                  "[SEP]"]  # fmt: skip
    for row in (short, long):
        run = row.runs[0]
        per_token = run.processed[[0, 2]].sum(0)[1:-1]  # one token per word
        np.testing.assert_array_equal(run.view.layer_counts, per_token)


def test_patches_lie_where_they_are_in_the_image() -> None:
    picture = image_of()
    (row,) = route_rows(image_classifier(), [picture], (4,))
    view = row.runs[0].view
    np.testing.assert_array_equal(view.pixels, np.asarray(picture))  # nothing is scaled or cut
    assert view.layer_counts.shape == (6, 4)
    for patch in range(24):
        count = sum(bool(layer[1 + patch]) for layer in row.runs[0].processed)  # behind CLS
        assert view.layer_counts[patch // 4, patch % 4] == count
    assert 0 < view.layer_counts.sum() < 3 * 24


def test_the_model_is_left_as_it_was() -> None:
    classifier = text_classifier()
    ca.set_reduction_factor(classifier.model, 5)
    classifier.model.train()
    first = route_rows(classifier, TEXTS, (2, 4))
    second = route_rows(classifier, TEXTS, (2, 4))  # no dropout, no sampled factor
    for before, after in zip(first, second, strict=True):
        assert before.dense_probabilities == after.dense_probabilities
    assert classifier.model.training
    layers = conditional_layers(classifier.model)
    assert {layer.coda_part("default").reduction_factor for layer in layers} == {5}


@pytest.mark.parametrize("factors, message", [((), r"got \[\]"), ((1, 4), r"got \[1.0, 4.0\]")])
def test_factors_without_a_choice_are_refused(factors, message) -> None:
    with pytest.raises(ca.ConfigError, match=f"above 1 .*{message}"):
        route_rows(text_classifier(), TEXTS, factors)


def test_a_model_without_routed_layers_is_refused() -> None:
    with pytest.raises(ca.ConfigError, match="all 3 layers process every token"):
        route_rows(text_classifier(dense_layers=(0, 1, 2)), TEXTS, (4,))


def test_tokens_that_are_no_grid_are_refused(monkeypatch) -> None:
    classifier = image_classifier()
    monkeypatch.setattr(classifier.model.config, "patch_size", 5)
    with pytest.raises(ca.ConfigError, match="24 tokens of a 'vit' model are not a grid of 4 x 3"):
        route_rows(classifier, [image_of()], (4,))
