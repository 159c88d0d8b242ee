"""Every word gets one tag, from its first sub-token."""

import json
import random

import datasets
import pytest
import torch

from conditional_adapters import ConfigError, DataError
from conditional_adapters.toolkit.tasks.data import DataSpec
from conditional_adapters.toolkit.tasks.inference import predict
from conditional_adapters.toolkit.tasks.kinds import find_task
from conditional_adapters.toolkit.tasks.task_data import load_task_rows
from tests.helpers.data_files import REMEDY, write_json_lines, write_parquet
from tests.helpers.runner import run
from tests.helpers.tiny_text import ANIMALS, PLANTS, write_bert

KIND = find_task("token-classification")
TAGS = ["B-x", "I-x", "O"]


def load(path, *, labels=None, **fields):
    return load_task_rows(KIND, DataSpec(source=str(path), **fields), labels=labels)


def task_with(tmp_path, *, max_length=None, **settings):
    return KIND.load(str(write_bert(tmp_path / "model", **settings)), TAGS, max_length=max_length)


def test_the_first_sub_token_alone_has_a_target(tmp_path) -> None:
    task = task_with(tmp_path)
    columns = task.encode({"words": [["cat", "of", "5"]], "tags": [["B-x", "O", "I-x"]]})
    #        [CLS]   c    a     t     o    f     5   [SEP]
    assert columns["labels"] == [[-100, 0, -100, -100, 2, -100, 1, -100]]
    assert columns["row"] == [0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_targets_are_padded_on_the_side_of_the_texts(tmp_path, side) -> None:
    task = task_with(tmp_path, padding_side=side)
    rows = {"words": [["cat", "of", "5"], ["a"]], "tags": [["B-x", "O", "I-x"], ["O"]]}
    columns = task.encode(rows)
    batch = task.collate([{k: v[i] for k, v in columns.items()} for i in (0, 1)])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    for index, labels in enumerate(columns["labels"]):
        mask = batch["attention_mask"][index].bool()
        assert batch["labels"][index][mask].tolist() == labels
        assert (batch["labels"][index][~mask] == -100).all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [4, 5, 7, 40])
def test_long_rows_are_divided_and_every_word_gets_its_tag(tmp_path, max_length, side) -> None:
    task = task_with(tmp_path, max_length=max_length, padding_side=side)
    with torch.no_grad():  # padding on the left moves BERT's positions
        task.model.base_model.embeddings.position_embeddings.weight.zero_()
    words = [["cat", "of", "ninelives", "a"], ["b"], ["owl", "fox", "c", "d", "e"]]
    rows = datasets.Dataset.from_dict({"words": words})
    columns = task.encode(rows[:])
    assert (len(columns["row"]) > 3) == (max_length < 40)
    expected = [[] for _ in words]  # by hand: the tag of each sub-token that begins a word
    for row, ids, begun in zip(columns["row"], columns["input_ids"], columns["word"], strict=True):
        assert len(ids) <= max_length
        pieces = task.processor.convert_ids_to_tokens(ids)
        with torch.no_grad():
            tags = task.model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        for piece, word, tag in zip(pieces, begun, tags, strict=True):
            is_first = not piece.startswith(("##", "["))
            assert (word >= 0) == is_first
            if is_first:
                assert words[row][word].startswith(piece)
                expected[row].append(TAGS[tag])
    predictions = predict(task, rows, batch_size=2)
    assert predictions == [{"tags": tags} for tags in expected]
    assert [len(tags) for tags in expected] == [4, 1, 5]


def test_a_word_without_tokens_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no token for the word '\\u3000'"):
        task_with(tmp_path).encode({"words": [["cat", "\u3000", "of"]]})


def test_metrics_count_words_and_entities(tmp_path) -> None:
    task = task_with(tmp_path)
    rows = {"tags": [["B-x", "I-x", "O", "B-x"], ["O"]]}
    predictions = [{"tags": ["B-x", "O", "O", "B-x"]}, {"tags": ["O"]}]
    # One of two entities is found, of two proposed; F1 of the tags: 1, 0, 0.8.
    assert task.score(predictions, rows) == {
        "accuracy": 0.8,
        "macro_f1": pytest.approx(1.8 / 3),
        "entity_f1": 0.5,
    }
    plain = KIND.load(str(tmp_path / "model"), ["noun", "verb"])
    assert set(plain.score([{"tags": ["noun"]}], {"tags": [["verb"]]})) == {"accuracy", "macro_f1"}


def test_training_through_the_command_learns_the_tags(tmp_path) -> None:
    rng = random.Random(0)
    tag_of = dict.fromkeys(ANIMALS, "B-animal") | dict.fromkeys(PLANTS, "O")
    sentences = [rng.choices(list(tag_of), k=rng.randint(1, 7)) for _ in range(120)]
    rows = [{"tokens": s, "ner": [tag_of[word] for word in s]} for s in sentences]
    data = write_json_lines(tmp_path / "data.jsonl", rows)
    write_bert(tmp_path / "model", [*ANIMALS, *PLANTS])
    columns = ("--column", "words=tokens", "--column", "tags=ner", "--data", data, "--json")
    result = run(
        *("train", "--task", "token-classification", "--model", tmp_path / "model", *columns),
        *("--output", tmp_path / "run", "-r", 2, "--epochs", 4, "--learning-rate", 0.02),
        *("--adapter-dim", 8),
    )
    summary = json.loads(result.stdout)
    assert summary["accuracy"] > 0.9  # chance is 0.5
    adapter = ("--adapter", tmp_path / "run/adapter")
    metrics = json.loads(run("evaluate", *adapter, *columns).stdout)
    output = ("--output", tmp_path / "out.jsonl")
    run("predict", *adapter, "--data", data, "--column", "words=tokens", *output)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    pairs = [
        pair
        for line, row in zip(lines, rows, strict=True)
        for pair in zip(line["tags"], row["ner"], strict=True)
    ]
    right = sum(predicted == gold for predicted, gold in pairs)
    assert metrics["accuracy"] == pytest.approx(right / len(pairs))
    found = sum(predicted == gold == "B-animal" for predicted, gold in pairs)
    proposed_and_right = sum((p == "B-animal") + (g == "B-animal") for p, g in pairs)
    assert metrics["entity_f1"] == pytest.approx(2 * found / proposed_and_right)


def test_lists_of_class_numbers_get_their_names(tmp_path) -> None:
    features = datasets.Features(
        {
            "words": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
        }
    )
    rows = {"words": [["a", "b"], ["c"]], "tags": [[0, 1], [1]]}
    stored = datasets.Dataset.from_dict(rows, features=features)
    stored.save_to_disk(tmp_path / "stored")
    stored.to_parquet(tmp_path / "rows.parquet")
    for source in (tmp_path / "stored", tmp_path / "rows.parquet"):
        loaded = load(source)
        assert loaded["tags"][:] == [["O", "B-x"], ["B-x"]]
        assert KIND.labels_of(loaded) == ("B-x", "O")
    write_parquet(tmp_path / "plain.parquet", [{"words": ["a"], "tags": ["O"]}])
    assert load(tmp_path / "plain.parquet")[0] == {"words": ["a"], "tags": ["O"]}


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "there are 2 words and 1 tags"),
        ({"words": "a b", "tags": ["O"]}, "the words are 'a b', they must be a list"),
        ({"words": [], "tags": []}, "the list of words is empty"),
        ({"words": ["a"], "tags": None}, "the tags are missing"),
        ({"words": ["a", ""], "tags": ["O", "O"]}, "the word is empty"),
        ({"words": ["a"], "tags": ["B-y"]}, "the label 'B-y' is not one of the known labels"),
        ({"words": ["a"]}, "there is no field 'tags'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, reason) -> None:
    good = {"words": ["a"], "tags": ["O"]}
    path = write_json_lines(tmp_path / "x.jsonl", [good, row])
    with pytest.raises(DataError) as caught:
        load(path, labels=TAGS)
    assert str(caught.value).startswith(f"{path}:2: {reason}")
    assert str(caught.value).endswith(REMEDY)


def test_one_tag_is_not_enough() -> None:
    with pytest.raises(ConfigError, match=r"at least 2 different tags, got \['O'\]"):
        KIND.load("packaged:minilm", ["O"])
