"""Quality and speed over r are what counting by hand gives, and the choice follows from them."""

import math

import datasets
import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.toolkit.tasks import tuning
from conditional_adapters.toolkit.tasks.inference import predict
from conditional_adapters.toolkit.tasks.kinds import find_task
from conditional_adapters.toolkit.tasks.models import Classifier
from conditional_adapters.toolkit.tasks.task import Quality
from conditional_adapters.toolkit.tasks.tuning import (
    factors_to_measure,
    measure_factors,
)
from tests.helpers.factor_curves import curve_of, text_rows
from tests.helpers.tiny_classifiers import LABELS, image_classifier, text_classifier
from tests.helpers.tiny_text import write_bert, write_t5
from tests.helpers.tiny_whisper import recogniser, write_tone


def image_rows(number=6):
    images = torch.randint(
        0, 256, (number, 24, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))}
    )
    import PIL.Image

    cells = [PIL.Image.fromarray(image.numpy()) for image in images]
    labels = [i % 3 for i in range(number)]
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)


def measure(classifier, rows, factors, **settings):
    return measure_factors(classifier, rows, factors, rounds=3, **settings)


def test_each_factor_is_measured_as_one_row_at_a_time_by_hand() -> None:
    classifier, rows = text_classifier(), text_rows()
    curve = measure(classifier, rows, (8, 1, 3, 3.0), batch_size=7)
    assert [m.reduction_factor for m in curve.measurements] == [1, 3, 8]
    assert curve.num_rows == 40
    right = {}
    for factor in (1, 3, 8):
        ca.set_reduction_factor(classifier.model, factor)
        right[factor] = []
        for text, label in zip(rows["text"], rows["label"], strict=True):
            with torch.no_grad():
                inputs = classifier.processor(text, return_tensors="pt")
                right[factor].append(int(classifier.model(**inputs).logits.argmax()) == label)
    assert len({tuple(r) for r in right.values()}) == 3  # the factors disagree
    for m in curve.measurements:
        mine, first = right[m.reduction_factor], right[1]
        assert m.metrics["accuracy"] == pytest.approx(sum(mine) / 40)
        assert m.difference == pytest.approx((sum(mine) - sum(first)) / 40)
        won = sum(a and not b for a, b in zip(mine, first, strict=True))
        lost = sum(b and not a for a, b in zip(mine, first, strict=True))
        tail = sum(math.comb(won + lost, i) for i in range(min(won, lost) + 1))
        assert m.p_value == pytest.approx(min(1, 2 * tail / 2 ** (won + lost)))
        low, high = m.difference_interval
        assert low <= m.difference <= high
        differing = sum(a != b for a, b in zip(mine, first, strict=True))
        assert m.num_differing == differing
    assert curve.reference.difference_interval == (0, 0)


def test_the_longest_rows_are_timed_and_their_operations_counted(monkeypatch) -> None:
    monkeypatch.setattr(Classifier, "chunk_size", 5)  # the longest are found across chunks
    classifier = text_classifier()
    rows = text_rows(lengths=(3, 9))
    long = [" ".join(["w1"] * n) for n in (20, 26, 26)]
    texts = [*rows["text"][:9], *long[:2], *rows["text"][9:30], long[2]]
    rows = datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    curve = measure(classifier, rows, (1, 4), timing_batch=2)
    assert curve.batch_shape == (2, 28)
    ratios = {}
    for factor in (1, 4):
        ca.set_reduction_factor(classifier.model, factor)
        ratios[factor] = ca.estimate_flops(classifier.model, batch_size=2, sequence_length=28).total
    dense, routed = curve.measurements
    assert dense.flop_ratio == dense.speed_up == 1
    assert routed.flop_ratio == pytest.approx(ratios[1] / ratios[4])
    assert routed.flop_ratio > 1.5
    assert all(m.seconds > 0 for m in curve.measurements)


def test_all_rows_are_timed_where_there_are_fewer_than_a_batch() -> None:
    assert measure(image_classifier(), image_rows(3), (1, 4)).batch_shape == (3, 3, 24, 16)
    assert measure(image_classifier(), image_rows(6), (1, 4), timing_batch=2).batch_shape[0] == 2


def test_every_factor_runs_in_turns_at_its_own_r(monkeypatch) -> None:
    classifier, seen = text_classifier(), []

    def watch(candidates, *, prepare, **_):
        for name, run in candidates.items():
            prepare(name)
            with ca.record_routing(classifier.model) as routing:
                run()
            seen.append(routing.layers[0].selected_indices.shape[1])
        return original(candidates, prepare=prepare, rounds=3, warmup=0)

    original = tuning.time_interleaved
    monkeypatch.setattr(tuning, "time_interleaved", watch)
    rows = datasets.Dataset.from_dict({"text": ["w1 " * 30] * 2, "label": [0, 1]})
    measure(classifier, rows, (2, 4, 8))
    assert seen == [16, 8, 4]  # of 32 tokens


@pytest.mark.parametrize("is_training", [False, True])
def test_the_model_is_left_as_it_was_and_measured_without_dropout(is_training) -> None:
    classifier, rows = text_classifier(), text_rows(12)
    ca.set_reduction_factor(classifier.model, 5)
    classifier.model.train(is_training)
    first = measure(classifier, rows, (2, 4))
    second = measure(classifier, rows, (2, 4))
    assert [m.metrics for m in first.measurements] == [m.metrics for m in second.measurements]
    assert classifier.model.training is is_training
    factors = {
        layer.coda_part("default").reduction_factor
        for layer in conditional_layers(classifier.model)
    }
    assert factors == {5}


def test_an_elastic_adapter_is_measured_where_it_was_trained() -> None:
    assert factors_to_measure(text_classifier((8, 2, 4))) == (2, 4, 8)
    assert factors_to_measure(text_classifier(4)) == (1, 2, 3, 4, 5, 8, 16)
    assert factors_to_measure(text_classifier((4,))) == (1, 2, 3, 4, 5, 8, 16)


@pytest.mark.parametrize(
    "right, max_drop, chosen",
    [
        ((970, 968, 965, 964), 0.5, 4),  # 0.5 points lost is allowed, 0.6 is not
        ((970, 960, 966, 900), 0.5, 4),  # the largest counts, whatever is between
        ((970, 980, 990, 975), 0, 8),
        ((970, 969, 969, 969), 0, None),
        ((970, 940, 930, 900), 2.9, None),
        ((970, 940, 930, 900), 3, 2),
        ((970, 0, 0, 0), 100, 8),
    ],
)
def test_the_largest_r_within_the_allowed_drop_is_chosen(right, max_drop, chosen) -> None:
    wrong = [1000 - number for number in right]
    for curve in (curve_of(*right), curve_of(*wrong, is_error=True)):
        found = curve.choose(max_drop=max_drop)
        assert (None if found is None else found.reduction_factor) == chosen


def test_speech_is_measured_by_its_word_error_rate(tmp_path) -> None:
    task = recogniser(tmp_path / "m")
    tones = [write_tone(tmp_path / f"{f}.wav", f, seconds=f / 1000) for f in range(300, 1100, 100)]
    cells = [{"bytes": None, "path": str(tone)} for tone in tones]
    said = ["a b c d e", "a", "b c", "low tone", "high", "one two", "x y z", "so"]
    rows = datasets.Dataset.from_dict({"audio": cells, "text": said})
    curve = measure(task, rows, (8, 1, 3), timing_batch=2)
    assert curve.quality == Quality(name="wer", is_error=True)
    rates = {}
    for factor in (1, 3, 8):
        ca.set_reduction_factor(task.model, factor)
        rates[factor] = task.score(predict(task, rows), rows)["wer"]
    for m in curve.measurements:
        assert m.metrics == {"wer": pytest.approx(rates[m.reduction_factor])}
        assert m.difference == pytest.approx(rates[m.reduction_factor] - rates[1])
        low, high = m.difference_interval
        assert low <= m.difference <= high
        assert m.p_value is None
    assert curve.batch_shape == (2, 8, 200)
    assert curve.measurements[2].flop_ratio > 2
    worse = max(curve.measurements[1:], key=lambda m: m.difference)
    assert curve.points_lost(worse.difference) == pytest.approx(100 * worse.difference)


@pytest.mark.parametrize("name", ["token-classification", "question-answering", "summarization"])
def test_every_other_task_is_measured_by_its_own_figure(name, tmp_path) -> None:
    words = ["red cat", "old oak ran", "the dog sat down", "elm", "owl and fox", "yew"]
    tags = [["A" if len(word) > 3 else "B" for word in text.split()] for text in words]
    write, labels, columns, metric = {
        "token-classification": (
            write_bert, ("A", "B"), {"words": [t.split() for t in words], "tags": tags}, "accuracy"
        ),
        "question-answering": (
            write_bert, (), {
                "question": ["which?"] * 6, "context": words,
                "answers": [{"text": [t.split()[0]], "answer_start": [0]} for t in words],
            }, "f1",
        ),
        "summarization": (write_t5, (), {"text": words, "target": words}, "rougeL"),
    }[name]  # fmt: skip
    task = find_task(name).load(str(write(tmp_path / "m")), labels)
    ca.attach(task.model, ca.ConditionalAdapterConfig(reduction_factor=4, adapter_dim=4))
    rows = datasets.Dataset.from_dict(columns)
    curve = measure(task, rows, (1, 4))
    assert curve.quality == Quality(name=metric)
    for m in curve.measurements:
        ca.set_reduction_factor(task.model, m.reduction_factor)
        expected = task.score(predict(task, rows), rows)
        assert m.metrics == expected
        reference = curve.reference.metrics[metric]
        assert m.difference == pytest.approx(expected[metric] - reference)


@pytest.mark.parametrize("rows", [37, 300, 725, 1999])
def test_a_drop_of_exactly_the_limit_is_allowed_whatever_the_rounding(rows) -> None:
    for lost in range(1, rows // 3):
        curve = curve_of(rows - 1, rows - 1 - lost, of=rows)
        assert curve.choose(max_drop=100 * lost / rows) is not None
        assert curve.choose(max_drop=100 * (lost - 0.01) / rows) is None


@pytest.mark.parametrize("max_drop", [-0.1, 101, float("nan")])
def test_a_drop_out_of_range_is_refused(max_drop) -> None:
    with pytest.raises(
        ca.ConfigError, match=f"between 0 and 100 points of accuracy, got {max_drop}"
    ):
        curve_of(9, 9).choose(max_drop=max_drop)


@pytest.mark.parametrize(
    "factors, settings, message",
    [
        ((4, 4.0), {}, r"at least 2 different reduction factors, got \[4.0\]"),
        ((0.5, 2), {}, "reduction_factor must be .* got 0.5"),
        ((1, 2), {"timing_batch": 0}, "timing_batch must be at least 1, got 0"),
    ],
)
def test_impossible_measurements_are_refused(factors, settings, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        measure(text_classifier(), text_rows(4), factors, **settings)
