"""Tallies add up to the metrics of other libraries, and intervals hold what they promise."""

import random

import jiwer
import numpy as np
import pytest
from seqeval.metrics import f1_score

import conditional_adapters as ca
from conditional_adapters.toolkit.tasks.comparison import ratio_difference_interval, ratio_of_sums
from conditional_adapters.toolkit.tasks.kinds import find_task
from conditional_adapters.toolkit.tasks.kinds.speech_recognition import SpeechRecogniser
from conditional_adapters.toolkit.tasks.kinds.token_classification import TokenClassifier


def some(words, rng, *, longest=9):
    return rng.choices(words, k=rng.randint(1, longest))


def parts_of(number):
    return [slice(None), slice(3, 20), slice(number - 1, number)]


def test_errors_of_speech_add_up_to_the_word_error_rate_of_any_rows() -> None:
    rng = random.Random(0)
    said = [" ".join(some(["no", "yes", "call", "mail"], rng)) for _ in range(40)]
    heard = [" ".join(some(["no", "yes", "call", "mail"], rng)) for _ in range(39)] + [""]
    task = SpeechRecogniser(None, None, 8)
    tally = task.tally([{"text": text} for text in heard], {"text": said})
    for part in parts_of(40):
        assert ratio_of_sums(tally[part]) == pytest.approx(jiwer.wer(said[part], heard[part]))


def test_entities_add_up_to_the_f1_of_any_rows() -> None:
    rng = random.Random(1)
    labels = ("O", "B-x", "I-x", "B-y", "I-y")
    gold = [some(labels, rng) for _ in range(60)]
    predicted = [[rng.choice([tag, *labels]) for tag in row] for row in gold]
    task = TokenClassifier(None, None, labels, 8)
    tally = task.tally([{"tags": row} for row in predicted], {"tags": gold})
    for part in parts_of(60):
        expected = f1_score(gold[part], predicted[part], zero_division=0)
        assert ratio_of_sums(tally[part]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name, predictions, rows",
    [
        ("summarization", [{"target": "a b"}, {"target": "c d e"}], {"target": ["a c", "c e"]}),
        (
            "question-answering",
            [{"answer": "the cat"}, {"answer": "x"}],
            {"answers": [{"text": ["a dog", "black cat"]}, {"text": ["y"]}]},
        ),
    ],
)
def test_other_tallies_add_up_to_the_figure_of_their_task(name, predictions, rows) -> None:
    kinds = find_task(name).load.__globals__
    task = kinds["Summariser" if name == "summarization" else "QuestionAnswerer"](None, None, 8)
    score = task.score(predictions, rows)[task.quality.name]
    assert 0 < score < 1
    assert ratio_of_sums(task.tally(predictions, rows)) == pytest.approx(score)


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        words = rng.integers(3, 20, 80)
        reference = np.stack([rng.binomial(words, 0.1), words], 1).astype(float)
        model = np.stack([reference[:, 0] + rng.binomial(words, 0.03), words], 1)
        low, high = ratio_difference_interval(model, reference)
        held += low <= 0.03 <= high
    assert 88 <= held <= 99  # of 100, for 95 %


def test_rows_are_paired() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(5, 15, 200).astype(float)
    errors = rng.binomial(words.astype(int), 0.4)
    reference = np.stack([errors, words], 1)
    model = reference + np.array([1.0, 0.0])  # one error more in each row
    low, high = ratio_difference_interval(model, reference)
    true = 1 / words.mean()
    assert low < true < high
    assert high - low < 0.15 * true  # apart, the two rates vary by far more
    assert ratio_difference_interval(model, reference) == (low, high)
    assert ratio_difference_interval(reference, model) == pytest.approx((-high, -low))
    assert ratio_difference_interval(reference, reference) == (0, 0)


def test_nothing_said_is_no_error_and_one_row_is_refused() -> None:
    assert ratio_of_sums(np.zeros((3, 2))) == 0
    with pytest.raises(ca.ConfigError, match="at least 2 rows, got 1"):
        ratio_difference_interval(np.ones((1, 2)), np.ones((1, 2)))
