"""Whisper learns from recordings with transcripts."""

import csv
import json
import math
import random
import re

import pytest
import torch
from torch.nn.functional import cross_entropy

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.toolkit.tasks.data import DataSpec
from conditional_adapters.toolkit.tasks.inference import predict
from conditional_adapters.toolkit.tasks.kinds import default_task, find_task
from conditional_adapters.toolkit.tasks.task_data import load_task_rows, split_rows
from conditional_adapters.training import start_routers
from tests.helpers.runner import run
from tests.helpers.tiny_whisper import write_tone, write_whisper

KIND = find_task("automatic-speech-recognition")
WORDS = {"low": 300, "high": 2500}  # and the tones that stand for them


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local Whisper, and recordings of two tones with their names in a CSV file."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("speech")
    write_whisper(root / "model")
    (root / "clips").mkdir()
    rng = random.Random(0)
    with (root / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "said"])
        for index in range(64):
            word = list(WORDS)[index % 2]
            frequency = WORDS[word] * rng.uniform(0.9, 1.1)
            write_tone(root / f"clips/{index}.wav", frequency, seconds=rng.uniform(0.3, 1.2))
            writer.writerow([f"clips/{index}.wav", word])
    return root


def load(folder, **fields):
    columns = {"audio": "path"}
    return load_task_rows(
        KIND,
        DataSpec(source=str(folder / "data.csv"), text_column="said", columns=columns, **fields),
    )


def batch_of(task, rows):
    columns = task.encode(rows[:])
    return task.collate(
        [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    )


def conditional(folder, reduction_factor=4):
    task = KIND.load(str(folder / "model"), ())
    ca.attach(task.model, ca.ConditionalAdapterConfig(reduction_factor=reduction_factor))
    return task


def test_the_loss_is_the_decoders_over_the_transcript(folder) -> None:
    task, rows = KIND.load(str(folder / "model"), ()), load(folder, limit=4)
    batch = batch_of(task, rows)
    total = torch.zeros(())
    count = 0
    for index, text in enumerate(rows["text"]):
        tokens = torch.tensor(task.processor.tokenizer(text)["input_ids"])
        named = task.processor.tokenizer.convert_ids_to_tokens(tokens[[0, 1, -1]])
        assert named == ["<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"]
        with torch.no_grad():
            logits = task.model(
                input_features=batch["input_features"][index : index + 1],
                decoder_input_ids=tokens[None, :-1],
            ).logits[0]
        total += cross_entropy(logits, tokens[1:], reduction="sum")
        count += len(tokens) - 1
    with torch.no_grad():
        assert task.model(**batch).loss == pytest.approx(float(total / count), rel=1e-5)


def test_budgets_suffice_for_the_speech_in_training_and_in_generation(folder) -> None:
    task, rows = conditional(folder), load(folder, limit=5)
    batch = batch_of(task, rows)
    frames = [math.ceil(len_of(path) / 160) for path in paths(rows)]
    expected = [[max(25, math.ceil(n / 2)) for n in frames]] * 2  # 25 of 100 tokens at r = 4
    assert max(expected[0]) > 25
    assert batch["attention_mask"].sum(-1).tolist() == frames
    with torch.no_grad(), ca.record_routing(task.model) as routing:
        task.model(**batch)
        seen = [decision.is_selected.sum(-1).tolist() for decision in routing.layers]
        del batch["labels"]
        task.infer(batch)
        generated = [decision.is_selected.sum(-1).tolist() for decision in routing.layers]
    assert seen == generated == expected


def test_clips_with_much_speech_are_predicted_together(folder) -> None:
    task, rows = conditional(folder), load(folder, limit=12)
    tokens = sorted(max(25, math.ceil(len_of(path) / 320)) for path in paths(rows))
    slots = []
    layer = conditional_layers(task.model)[0]
    layer.fc1.register_forward_pre_hook(lambda module, args: slots.append(args[0].shape[1]))
    expected = [task.infer(unlabelled(task, rows.select([row])))[0].strip() for row in range(12)]
    slots.clear()
    predictions = predict(task, rows, batch_size=4)
    assert [prediction["text"] for prediction in predictions] == expected
    assert slots == [tokens[3], tokens[7], tokens[11]]


def unlabelled(task, rows):
    batch = batch_of(task, rows)
    del batch["labels"]
    return batch


def paths(rows):
    return [cell["path"] for cell in rows["audio"]]


def len_of(path):
    """Samples of a file at 16 kHz, by the standard library."""
    import wave

    with wave.open(path) as file:
        return file.getnframes() * 2


def test_the_word_error_rate_ignores_case_marks_and_the_spelling_of_numbers(folder) -> None:
    task = KIND.load(str(folder / "model"), ())
    predictions = [{"text": "press one, please"}, {"text": "Goodbye my friend"}, {"text": ""}]
    rows = {"text": ["Press 1 please.", "good bye, friend", "yes"]}
    # Words: 3 + 3 + 1. "goodbye my" for "good bye": two wrong; "yes" is missing.
    assert task.score(predictions, rows) == {"wer": pytest.approx(3 / 7)}


@pytest.fixture(scope="module")
def trained(folder):
    result = run(
        *("train", "--model", folder / "model", "--data", folder / "data.csv", "--json"),
        *("--output", folder / "run", "--column", "audio=path", "--text-column", "said"),
        *("--test-data", folder / "data.csv", "-r", 2, "--epochs", 12, "--learning-rate", 0.01),
        *("--adapter-dim", 16, "--router-learning-rate", 0.001),
    )
    return json.loads(result.stdout)


@pytest.mark.slow
def test_training_through_the_command_learns_to_write_down_what_is_heard(folder, trained) -> None:
    assert trained["wer"] < 0.3  # an adapter that does not listen is wrong at every second clip
    record = json.loads((folder / "run/adapter/task.json").read_text())
    assert record == {
        "task": "automatic-speech-recognition",
        "base_model": str(folder / "model"),
        "labels": [],
        "max_length": 40,
    }


@pytest.mark.slow
def test_the_saved_adapter_evaluates_and_predicts_the_same(folder, trained) -> None:
    source = ("--adapter", folder / "run/adapter", "--data", folder / "data.csv")
    columns = ("--column", "audio=path")
    result = run("evaluate", *source, *columns, "--text-column", "said", "--json")
    assert json.loads(result.stdout) == {"rows": 64, "wer": pytest.approx(trained["wer"])}
    result = run("predict", *source, *columns, "--limit", 3, "--batch-size", 2)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert all(set(line) == {"row", "text"} for line in lines)


def test_whisper_is_for_speech_and_nothing_else_is(folder, tmp_path) -> None:
    from transformers import BertConfig

    assert default_task(str(folder / "model")) is default_task("packaged:whisper") is KIND
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ca.UnsupportedArchitectureError, match="'bert' model"):
        KIND.load(str(tmp_path), ())
    with pytest.raises(ca.ConfigError, match="'packaged:minilm' is not a packaged model for autom"):
        KIND.load("packaged:minilm", ())
    assert default_task("packaged:minilm").name == "text-classification"


def test_a_multilingual_whisper_is_refused(tmp_path) -> None:
    write_whisper(tmp_path, multilingual=True)
    with pytest.raises(ca.UnsupportedArchitectureError, match=r"multilingual.*ends in \.en"):
        KIND.load(str(tmp_path), ())


@pytest.mark.parametrize("length", [3, 41])
def test_a_length_that_the_decoder_cannot_have_is_refused(folder, length) -> None:
    with pytest.raises(ca.ConfigError, match=rf"between 4 and 40 tokens.*got {length}\."):
        KIND.load(str(folder / "model"), (), max_length=length)


def test_what_does_not_fit_the_model_is_refused(folder, tmp_path) -> None:
    task = KIND.load(str(folder / "model"), (), max_length=8)
    path = write_tone(tmp_path / "long.wav", 300, seconds=2.5)
    cell = {"bytes": None, "path": str(path)}
    with pytest.raises(ca.DataError, match=r"long\.wav has 2\.5 seconds, but the window.* 2\."):
        task.encode({"audio": [cell]})
    short = {"bytes": None, "path": str(write_tone(tmp_path / "short.wav", 300))}
    with pytest.raises(ca.DataError, match="'something' has 12 tokens, but the decoder supports 8"):
        task.encode({"audio": [short], "text": ["something"]})


def test_an_unknown_column_is_named(folder) -> None:
    spec = DataSpec(source=str(folder / "data.csv"), columns={"sound": "path"})
    with pytest.raises(ca.ConfigError, match=r"no column 'sound'\. Its columns are audio, text"):
        load_task_rows(KIND, spec)
    with pytest.raises(ca.DataError, match=re.escape("Choose one with --column audio=NAME.")):
        load_task_rows(KIND, DataSpec(source=str(folder / "data.csv"), text_column="said"))


@pytest.mark.slow
def test_the_packaged_whisper_hears_the_packaged_prompts(needs) -> None:
    for asset in ("whisper", "prompts/recordings", "prompts/transcripts"):
        needs(asset)
    rows = load_task_rows(KIND, DataSpec(source="packaged:prompts"))
    assert len(rows) == 537
    train, test = split_rows(KIND, rows, test_size=100, seed=0)
    assert not set(train["text"]) & set(test["text"])
    task = KIND.load("packaged:whisper", ())
    some = test.select(range(6))
    assert task.score(predict(task, some), some)["wer"] < 0.25


@pytest.mark.slow
def test_routers_of_the_packaged_whisper_start_at_the_speech(needs) -> None:
    """A quarter of the window holds all of a short clip, if the routers find it."""
    for asset in ("whisper", "prompts/recordings", "prompts/transcripts"):
        needs(asset)
    rows = load_task_rows(KIND, DataSpec(source="packaged:prompts"))
    task = KIND.load("packaged:whisper", ())
    model = ca.attach(task.model, ca.ConditionalAdapterConfig(adapt_decoder=False))
    encoded = task.encode(rows[100:108])
    features = torch.stack(encoded["input_features"])
    mask = torch.stack(encoded["attention_mask"])
    lengths = mask[:, ::2].sum(-1)
    assert lengths.max() < 375
    start_routers(model, [{"input_features": features[:4], "attention_mask": mask[:4]}])
    with ca.record_routing(model) as routing, torch.no_grad():
        model.model.encoder(features[4:], attention_mask=mask[4:])
    for decision in routing.layers:
        assert decision.selected_indices.shape[1] == 375
        heard = (decision.selected_indices < lengths[4:, None]).sum(-1)
        assert (heard > 0.75 * lengths[4:]).all()
