"""Answers are spans of the context, wherever the windows cut it."""

import itertools
import json
import random
import re
import string
from collections import Counter

import datasets
import numpy as np
import pytest
import torch

from conditional_adapters import DataError
from conditional_adapters.toolkit.tasks.data import DataSpec
from conditional_adapters.toolkit.tasks.inference import predict
from conditional_adapters.toolkit.tasks.kinds import find_task
from conditional_adapters.toolkit.tasks.kinds.question_answering import QuestionAnswerer
from conditional_adapters.toolkit.tasks.task_data import load_task_rows
from tests.helpers.data_files import REMEDY, write_json_lines
from tests.helpers.runner import run
from tests.helpers.tiny_text import ANIMALS, PLANTS, write_bert

KIND = find_task("question-answering")
CONTEXT = "the cat saw an owl near the old oak, and a fox ran by."


def row_of(context, answer, question="who?"):
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"question": question, "context": context, "answers": answers}


def columns_of(rows):
    return {key: [row[key] for row in rows] for key in rows[0]}


def task_with(tmp_path, *, max_length=None, **settings):
    return KIND.load(str(write_bert(tmp_path / "model", **settings)), (), max_length=max_length)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("answer", ["the cat", "owl", "fox", "by.", "oak, and a"])
def test_targets_are_the_tokens_of_the_answer_in_each_window(tmp_path, answer, side) -> None:
    task = task_with(tmp_path, max_length=24, padding_side=side)
    columns = task.encode(columns_of([row_of(CONTEXT, answer), row_of("a cat", "cat")]))
    examples = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    assert len(examples) > 3
    batch = task.collate(examples)
    found = 0
    for index, example in enumerate(examples):
        assert len(example["input_ids"]) <= 24
        wanted = answer if example["row"] == 0 else "cat"
        first, last = int(batch["start_positions"][index]), int(batch["end_positions"][index])
        tokens = task.processor.convert_ids_to_tokens(batch["input_ids"][index])
        if first == last and tokens[first] == "[CLS]":
            text = "".join(tokens[tokens.index("[SEP]") :]).replace("##", "")
            assert wanted.replace(" ", "") not in text
        else:
            written = "".join(tokens[first : last + 1]).replace("##", "")
            assert written == wanted.replace(" ", "")
            found += example["row"] == 0
    assert found >= 1


def brute_force(context, spans, logits):
    """Try all pairs of tokens."""
    best = (-np.inf, 0, 0)
    for first, (start, _) in enumerate(spans):
        for last in range(first, min(first + 30, len(spans))):
            end = spans[last][1]
            if start >= 0 and end > start and spans[first][1] > start and end > spans[last][0]:
                best = max(best, (logits[0][first] + logits[1][last], start, end))
    return best


@pytest.mark.parametrize("max_length", [20, 24, 40])
def test_the_answer_is_the_best_span_of_all_windows(tmp_path, max_length, monkeypatch) -> None:
    task = task_with(tmp_path, max_length=max_length)
    rows = datasets.Dataset.from_dict(
        {"question": ["who?", "what?"], "context": [CONTEXT, "a cat in an elm"]}
    )
    columns = task.encode(rows[:])
    best = [(-np.inf, 0, 0)] * 2
    outputs: dict[tuple[int, ...], np.ndarray] = {}
    rng = np.random.default_rng(0)
    for row, ids, spans in zip(columns["row"], columns["input_ids"], columns["span"], strict=True):
        outputs[tuple(ids)] = logits = rng.normal(size=(2, len(ids)))
        best[row] = max(best[row], brute_force(rows["context"][row], spans, logits))

    def infer(self, batch):
        rows_of_ids = zip(
            batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True
        )
        return [outputs[tuple(ids[: sum(mask)])] for ids, mask in rows_of_ids]

    monkeypatch.setattr(QuestionAnswerer, "infer", infer)
    predictions = predict(task, rows, batch_size=2)
    for row, (_, start, end) in enumerate(best):
        assert predictions[row] == {"answer": rows["context"][row][start:end], "start": start}


def test_logits_are_those_of_the_model_without_padding(tmp_path) -> None:
    task = task_with(tmp_path)
    columns = task.encode({"question": ["who?", "who?"], "context": ["a cat", "an owl and a fox"]})
    examples = [{key: values[i] for key, values in columns.items()} for i in (0, 1)]
    with torch.inference_mode():
        together = task.infer(task.collate(examples))
        apart = [task.infer(task.collate([example]))[0] for example in examples]
    for example, logits, alone in zip(examples, together, apart, strict=True):
        assert logits.shape == alone.shape == (2, len(example["input_ids"]))
        np.testing.assert_allclose(logits, alone, atol=1e-4)


@pytest.mark.parametrize(
    "prediction, answer, exact, f1",
    [
        ("The Cat!", "cat", 1, 1),
        ("the black cat", "a cat", 0, 2 / 3),  # precision 1/2, recall 1
        ("cat cat", "cat", 0, 2 / 3),
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("U.S.", "us", 1, 1),
    ],
)
def test_metrics_are_those_of_squad(prediction, answer, exact, f1) -> None:
    assert scores_of(prediction, [answer]) == pytest.approx({"exact_match": exact, "f1": f1})


def scores_of(prediction, answers):
    task = QuestionAnswerer(model=None, processor=None, max_length=20)
    return task.score([{"answer": prediction}], {"answers": [{"text": answers}]})


def squad_1(prediction, answers):
    """Exact match and F1, written after the evaluation script of SQuAD 1.1 (arXiv:1606.05250)."""

    def words(text):
        without_marks = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", without_marks).split()

    def f1(answer):
        shared = (Counter(words(prediction)) & Counter(words(answer))).total()
        return 2 * shared / (len(words(prediction)) + len(words(answer))) if shared else 0.0

    exact = max(words(prediction) == words(answer) for answer in answers)
    return {"exact_match": float(exact), "f1": max(map(f1, answers))}


ODD_TEXTS = [
    *("", " ", "...", "a", "The", "an a the", "The Theatre", "theatre", "A. the an", "a-the", "$5"),
    *(
        "the  cat\tsat\n",
        "CAT sat!",
        "cat cat sat",
        "na\u00efve caf\u00e9",
        "nai\u0308ve cafe\u0301",
    ),
    *(
        "\u0130stanbul",
        "i\u0307stanbul",
        "\u00abcat\u00bb",
        "cat\u2019s",
        "cats",
        "\u6771\u4eac \u90fd",
        "stra\u00dfe",
        "STRASSE",
    ),
    *("12,000", "12000", "\u0663", "3", "a\u00a0cat", "x\u200by", "_a_", "A.A.", "e = m c^2"),
]


def test_odd_answers_score_as_in_the_evaluation_script() -> None:
    references = [[text] for text in ODD_TEXTS] + list(map(list, itertools.pairwise(ODD_TEXTS)))
    for prediction, answers in itertools.product(ODD_TEXTS, references):
        wanted = squad_1(prediction, answers)
        # As in the script of SQuAD 2.0, where 1.1 has F1 0: both answers are without words.
        if wanted["exact_match"]:
            wanted["f1"] = 1.0
        assert scores_of(prediction, answers) == pytest.approx(wanted), (prediction, answers)


def test_the_comparison_of_models_uses_the_f1_of_each_example() -> None:
    answers = [{"text": ["black cat", "dog"]}, {"text": ["x"]}, {"text": ["x"]}]
    predictions = [{"answer": text} for text in ("the cat", "x", "y")]
    task = QuestionAnswerer(model=None, processor=None, max_length=20)
    tally = task.tally(predictions, {"answers": answers})
    np.testing.assert_allclose(tally, [[2 / 3, 1], [1, 1], [0, 1]], rtol=1e-6)
    assert task.score(predictions, {"answers": answers})["f1"] == pytest.approx(5 / 9)


def test_the_best_of_several_answers_counts(tmp_path) -> None:
    answers = [{"text": ["a dog", "cat"], "answer_start": [0, 0]}, {"text": ["x"]}]
    predictions = [{"answer": "the cat"}, {"answer": "y"}]
    scores = task_with(tmp_path).score(predictions, {"answers": answers})
    assert scores == {"exact_match": 0.5, "f1": 0.5}


def test_training_through_the_command_learns_to_find_the_answer(tmp_path) -> None:
    rng = random.Random(0)
    rows = []
    for _ in range(160):
        words = rng.choices(PLANTS, k=rng.randint(5, 20))
        answer = rng.choice(ANIMALS)
        words.insert(rng.randrange(len(words)), answer)
        rows.append(row_of(" ".join(words), answer, question="cat ? dog"))
    data = write_json_lines(tmp_path / "data.jsonl", rows)
    write_bert(tmp_path / "model", [*ANIMALS, *PLANTS])
    result = run(
        *("train", "--task", "question-answering", "--model", tmp_path / "model", "--json"),
        *("--data", data, "--output", tmp_path / "run", "-r", 2, "--epochs", 6),
        *("--learning-rate", 0.01, "--adapter-dim", 16, "--max-length", 20, "--test-data", data),
    )
    summary = json.loads(result.stdout)
    assert summary["exact_match"] > 0.7
    adapter = ("--adapter", tmp_path / "run/adapter", "--data", data)
    metrics = json.loads(run("evaluate", *adapter, "--json").stdout)
    assert metrics["exact_match"] == summary["exact_match"]
    run("predict", *adapter, "--output", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(
        row["context"][line["start"] :].startswith(line["answer"])
        for line, row in zip(lines, rows, strict=True)
    )
    right = sum(
        line["answer"] == row["answers"]["text"][0] for line, row in zip(lines, rows, strict=True)
    )
    assert metrics["exact_match"] == right / 160


def test_a_question_that_leaves_no_room_is_refused(tmp_path) -> None:
    task = task_with(tmp_path, max_length=20)
    with pytest.raises(DataError, match=r"'which animal .*' has \d+ tokens, which leaves too"):
        task.encode({"question": ["which animal is it?"], "context": ["cat"]})


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"answers": {"text": [], "answer_start": []}}, "the question has no answer"),
        (
            {"answers": {"text": ["cat"], "answer_start": [5]}},
            "the answer 'cat' is not at 5, where",
        ),
        ({"answers": {"text": ["cat"], "answer_start": [-1]}}, "the answer 'cat' is not at -1"),
        ({"answers": {"text": ["cat"], "answer_start": [4, 5]}}, "the answers' text and answer_st"),
        ({"answers": "cat"}, "the answers are 'cat', they must be"),
        ({"context": ""}, "the context is empty"),
        ({"question": None}, "the question is missing"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, change, reason) -> None:
    good = row_of(CONTEXT, "cat")
    path = write_json_lines(tmp_path / "x.jsonl", [good, good | change])
    with pytest.raises(DataError) as caught:
        load_task_rows(KIND, DataSpec(source=str(path)))
    assert str(caught.value).startswith(f"{path}:2: {reason}")
    assert str(caught.value).endswith(REMEDY)
