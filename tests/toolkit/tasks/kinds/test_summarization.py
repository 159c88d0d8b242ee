"""Encoder-decoders learn to write one text for another."""

import json
import random

import pytest
import torch
from torch.nn.functional import cross_entropy

import conditional_adapters as ca
from conditional_adapters.toolkit.tasks.data import DataSpec
from conditional_adapters.toolkit.tasks.kinds import find_task
from conditional_adapters.toolkit.tasks.task_data import load_task_rows, split_rows
from tests.helpers.data_files import write_csv
from tests.helpers.runner import run
from tests.helpers.tiny_text import ANIMALS, PLANTS, write_bert, write_t5

KIND = find_task("summarization")


def test_the_loss_is_the_decoders_over_the_summary(tmp_path) -> None:
    task = KIND.load(str(write_t5(tmp_path / "model")), ())
    rows = {"text": ["a cat and a dog", "oak"], "target": ["pets", "a tree"]}
    columns = task.encode(rows)
    batch = task.collate([{k: v[i] for k, v in columns.items()} for i in (0, 1)])
    losses = []
    for text, target in zip(rows["text"], rows["target"], strict=True):
        ids = torch.tensor(task.processor(text)["input_ids"])
        wanted = torch.tensor(task.processor(target)["input_ids"])
        assert wanted[-1] == 3  # the end is learned
        start = torch.tensor([0, *wanted[:-1]])
        with torch.no_grad():
            logits = task.model(input_ids=ids[None], decoder_input_ids=start[None]).logits[0]
        losses.append(cross_entropy(logits, wanted, reduction="none"))
    with torch.no_grad():
        assert task.model(**batch).loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_texts_and_summaries_are_cut(tmp_path) -> None:
    task = KIND.load(str(write_t5(tmp_path / "model")), (), max_length=7)
    columns = task.encode({"text": ["a " * 50], "target": ["a " * 500]})
    assert (len(columns["input_ids"][0]), len(columns["labels"][0])) == (7, 128)


def test_rouge_is_the_mean_over_rows(tmp_path) -> None:
    task = KIND.load(str(write_t5(tmp_path / "model")), ())
    rows = {"target": ["the cat sat down", "owls running"]}
    scores = task.score([{"target": "the cat ran down"}, {"target": "owl runs"}], rows)
    # First row: 3 of 4 words, 1 of 3 pairs, "the cat down". The second is the same but for stems.
    assert scores["rouge1"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores["rouge2"] == pytest.approx((1 / 3 + 1) / 2)
    assert scores["rougeL"] == pytest.approx((3 / 4 + 1) / 2)


def test_training_through_the_command_learns_to_summarise(tmp_path) -> None:
    rng = random.Random(0)
    rows = []
    for index in range(120):
        headline, words = [("pets", ANIMALS), ("wood", PLANTS)][index % 2]
        rows.append({"body": " ".join(rng.choices(words, k=rng.randint(3, 9))), "head": headline})
    data = write_csv(tmp_path / "data.csv", rows)
    write_t5(tmp_path / "model", [*ANIMALS, *PLANTS, "pets", "wood"])
    columns = ("--text-column", "body", "--column", "target=head", "--data", data, "--json")
    result = run(
        *("train", "--task", "summarization", "--model", tmp_path / "model", *columns),
        *("--output", tmp_path / "run", "-r", 2, "--epochs", 6, "--learning-rate", 0.02),
        *("--adapter-dim", 16, "--test-data", data),
    )
    summary = json.loads(result.stdout)
    assert summary["rouge1"] > 0.8  # one headline for all would have 0.5
    adapter = ("--adapter", tmp_path / "run/adapter")
    assert json.loads(run("evaluate", *adapter, *columns).stdout)["rougeL"] == pytest.approx(
        summary["rougeL"]
    )
    arguments = ("--data", data, "--text-column", "body", "--output", tmp_path / "out.jsonl")
    run("predict", *adapter, *arguments)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    right = sum(line["target"] == row["head"] for line, row in zip(lines, rows, strict=True))
    assert right / 120 == pytest.approx(summary["rouge1"], abs=0.1)


def test_headlines_are_the_first_lines_of_the_articles(needs) -> None:
    needs("bbc_news")
    rows = load_task_rows(KIND, DataSpec(source="packaged:bbc-headlines"))
    assert len(rows) == 2225
    claxton = rows["target"].index("Claxton hunting first major medal")
    assert rows[claxton]["text"].startswith("British hurdler Sarah Claxton")
    train, test = split_rows(KIND, rows, test_size=0.2, seed=0)
    assert not set(train["text"]) & set(test["text"])


def test_an_encoder_writes_no_summaries(tmp_path) -> None:
    write_bert(tmp_path / "bert")
    with pytest.raises(ca.UnsupportedArchitectureError, match=r"'bert' model.*no head for summ"):
        KIND.load(str(tmp_path / "bert"), ())
    with pytest.raises(ca.ConfigError, match="There is none: give a local folder"):
        KIND.load("packaged:minilm", ())
