"""Batches by length: each example once, few tokens, the numbers of one by one."""

import itertools

import numpy as np
import pytest
import torch

from conditional_adapters.toolkit.tasks import inference
from conditional_adapters.toolkit.tasks.inference import batches_by_length, predict_scores
from tests.helpers.tiny_classifiers import image_classifier, text_classifier

TEXTS = [
    " ".join(f"w{(index + n) % 40}" for n in range(n))
    for index, n in enumerate((3, 28, 1, 9, 3, 30, 2, 2, 14))
]


def batches(classifier, columns, batch_size):
    return list(batches_by_length(classifier, classifier.encode(columns), batch_size))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_each_text_is_in_one_batch_of_few_enough_tokens(batch_size) -> None:
    found = batches(text_classifier(), {"text": TEXTS}, batch_size)
    places = [index for indices, _ in found for index in indices]
    assert sorted(places) == list(range(len(TEXTS)))
    lengths = [len(TEXTS[index].split()) for index in places]
    assert lengths == sorted(lengths)
    for indices, batch in found:
        assert batch["input_ids"].shape[0] == len(indices)
        assert batch["input_ids"].numel() <= batch_size * 32  # the longest, with [CLS] and [SEP]


def test_images_come_in_batches_of_the_given_size() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (24, 16, 3), dtype=np.uint8) for _ in range(5)]
    found = batches(image_classifier(), {"image": images}, 2)
    assert [indices for indices, _ in found] == [[0, 1], [2, 3], [4]]


def test_a_text_alone_has_the_scores_it_has_in_a_batch() -> None:
    import datasets

    classifier = text_classifier(reduction_factor=4)
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    together = predict_scores(classifier, rows, batch_size=3)
    alone = np.concatenate(
        [predict_scores(classifier, rows.select([i])) for i in range(len(TEXTS))]
    )
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert torch.as_tensor(together).std(0).min() > 1e-3  # texts differ


@pytest.mark.parametrize("limit", [1, 40, 200, 1000])
@pytest.mark.parametrize("cost", [0, 7, 128])
def test_no_other_division_costs_less(limit, cost, monkeypatch) -> None:
    monkeypatch.setattr(inference, "_COST_OF_BATCH", cost)
    sizes = [2, 3, 3, 10, 11, 40, 41, 90, 200]

    def price(ends) -> float:
        runs = [sizes[first:end] for first, end in itertools.pairwise([0, *ends, len(sizes)])]
        if any(len(run) > 1 and len(run) * run[-1] > limit for run in runs):
            return float("inf")
        return sum(len(run) * run[-1] + cost for run in runs)

    inner = range(1, len(sizes))
    every = (c for n in range(len(sizes)) for c in itertools.combinations(inner, n))
    found = inference._boundaries(sizes, limit)
    assert price(found[1:-1]) == min(map(price, every))
