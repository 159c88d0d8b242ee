"""Pretraining: it learns, its checkpoints are small, and a kill changes nothing."""

import sys
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    TrainerCallback,
    ViTConfig,
    ViTModel,
)

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters, without_adapter
from conditional_adapters.training import (
    Distillation,
    MaskedLanguageModelling,
    MaskedPatches,
    PretrainingSettings,
    pretrain,
    start_routers,
)
from tests.helpers.tiny_bert import word_tokenizer
from tests.helpers.tiny_models import TINY_MODELS
from tests.helpers.tiny_models._builder import ENCODER

SETTINGS = PretrainingSettings(max_steps=9, batch_size=4, log_every=1, save_every=3)
ELASTIC = ca.ConditionalAdapterConfig(reduction_factor=(2, 3, 5), adapter_dim=4)
TOKENIZER = word_tokenizer()
WORDS = [word for word in TOKENIZER.get_vocab() if not word.startswith(("[", "<"))]


def texts(count: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    return [{"text": " ".join(rng.choice(WORDS, rng.integers(4, 12)))} for _ in range(count)]


def encode(columns):
    return dict(TOKENIZER(list(columns["text"])))


def pad(examples):
    return dict(TOKENIZER.pad(list(examples), return_tensors="pt"))


def bert(model_class: type = BertModel, **settings: object):
    """A random BERT with dropout, in which one layer depends on the other."""
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(TOKENIZER), **ENCODER, initializer_range=0.2, **settings)
    return ca.attach(model_class(config), ELASTIC)


def stored_rows() -> datasets.Dataset:
    return datasets.Dataset.from_list(texts(10))


def streamed_rows() -> datasets.IterableDataset:
    return datasets.IterableDataset.from_generator(lambda: iter(texts(10)))


class Killed(Exception):  # noqa: N818 - no error of ours
    """What a power cut looks like from here."""


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise Killed


def losses(trainer) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "loss" in line]


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in adapter_parameters(model, "default")}


@pytest.mark.parametrize("rows", [stored_rows, streamed_rows])
@pytest.mark.parametrize(
    "kind", ["distillation", "salient start", "masked words", "masked patches", "all"]
)
def test_a_killed_run_resumes_to_the_same_losses(tmp_path, rows, kind) -> None:
    """Dropout, elastic factors, masks and order are those of the uninterrupted run, bit for bit."""
    settings = SETTINGS

    def run(output, **options):
        nonlocal settings
        rows_now, encode_now = rows(), encode
        if kind in ("distillation", "salient start"):
            model, objective = bert(), Distillation(pad=pad)
            if kind == "salient start":
                settings = replace(SETTINGS, router_start="salient", router_start_rows=6)
        elif kind == "masked words":
            model, objective = bert(BertForMaskedLM), MaskedLanguageModelling(TOKENIZER)
        elif kind == "all":
            teacher = ca.detach(bert())
            model, objective = bert(), Distillation(pad=pad, teacher=teacher)
            settings = replace(SETTINGS, trainable="all")
        else:
            torch.manual_seed(1)
            config = ViTConfig(**ENCODER, image_size=16, patch_size=4, hidden_dropout_prob=0.1)
            model = ca.attach(ViTModel(config, add_pooling_layer=False), ELASTIC)
            objective = MaskedPatches(patch_size=4)
            encode_now = images_of
        trainer = pretrain(
            model, rows_now, objective=objective, output=output, settings=settings,
            encode=encode_now, **options,
        )  # fmt: skip
        return model, losses(trainer)

    straight, expected = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "cut", callbacks=(KillAt(5),))  # two steps after a checkpoint
    resumed, found = run(tmp_path / "cut", resume=True)
    assert [line["step"] for line in found] == list(range(1, 10))
    assert found == expected
    now = dict(resumed.named_parameters())
    assert all(torch.equal(now[name], p) for name, p in straight.named_parameters())
    assert len({line["loss"] for line in found}) == 9


def images_of(columns):
    """Images that depend on the text, so that order matters."""
    seeds = [len(text) for text in columns["text"]]
    return {"pixel_values": [torch.full((3, 16, 16), seed / 40.0) for seed in seeds]}


def test_distillation_learns_and_leaves_the_dense_model_alone(tmp_path) -> None:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    inputs = pad([{"input_ids": ids} for ids in encode({"text": WORDS[:3]})["input_ids"]])
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    with torch.no_grad(), without_adapter(model):
        dense = model.eval()(**inputs).last_hidden_state
    settings = PretrainingSettings(
        max_steps=60, batch_size=8, learning_rate=0.01, router_learning_rate=0.01
    )
    trainer = pretrain(
        model, stored_rows(), objective=Distillation(pad=pad), output=tmp_path, settings=settings,
        encode=encode,
    )  # fmt: skip
    history = losses(trainer)
    assert [line["step"] for line in history] == [10, 20, 30, 40, 50, 60]
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    total = history[0]["loss/layers"] + history[0]["loss/final"]
    assert total == pytest.approx(history[0]["loss"])
    assert not model.training
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    with torch.no_grad(), without_adapter(model):
        assert torch.equal(model(**inputs).last_hidden_state, dense)


@pytest.mark.parametrize("rows", [stored_rows, streamed_rows])
def test_a_salient_start_reads_the_first_rows_and_no_more(tmp_path, monkeypatch, rows) -> None:
    """The first steps are those of a run whose routers were put there by hand."""
    settings = replace(SETTINGS, router_start="salient", router_start_rows=6)
    run = {"objective": Distillation(pad=pad), "encode": encode}
    started = []
    monkeypatch.setattr(
        sys.modules["conditional_adapters.training.pretrain"],
        "start_routers",
        lambda model, batches: started.append((batches, start_routers(model, batches))),
    )
    found = pretrain(bert(), rows(), output=tmp_path / "a", settings=settings, **run)
    ((batches, _),) = started
    assert [len(batch["input_ids"]) for batch in batches] == [4, 2]
    by_hand = bert()
    start_routers(by_hand, batches)
    expected = pretrain(by_hand, rows(), output=tmp_path / "b", settings=SETTINGS, **run)
    assert losses(found) == losses(expected)


def test_what_routers_do_is_in_the_log_and_in_tensorboard(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = pretrain(
        bert(), stored_rows(), objective=Distillation(pad=pad), output=tmp_path, settings=SETTINGS,
        encode=encode,
    )  # fmt: skip
    names = ("selection_entropy", "neighbour_overlap", "mean_weight", "saturated_share")
    for line in losses(trainer):
        assert all(0 <= line[f"router/{name}"] <= 1 for name in names)
    events = EventAccumulator(str(next(tmp_path.rglob("events.out*")).parent)).Reload()
    assert {f"train/router/{name}" for name in names} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/loss/layers")) == 9


def test_checkpoints_hold_what_trains_and_an_unfinished_one_does_not_count(tmp_path) -> None:
    model = bert()

    def run(**options):
        return pretrain(
            model, stored_rows(), objective=Distillation(pad=pad), output=tmp_path,
            settings=SETTINGS, encode=encode, **options,
        )  # fmt: skip

    with pytest.raises(Killed):
        run(callbacks=(KillAt(5),))
    checkpoint = tmp_path / "checkpoint-3"
    size = sum(p.numel() * p.element_size() for p in parameters(model).values())
    assert size < (checkpoint / "model.safetensors").stat().st_size < size + 20_000
    assert not list(checkpoint.glob("*.bin"))
    unfinished = tmp_path / "checkpoint-6"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"cut off")
    (unfinished / "trainer_state.json").write_text('{"global_st')
    assert losses(run(resume=True))[-1]["step"] == 9


def test_another_adapter_is_not_resumed(tmp_path) -> None:
    options = {"objective": Distillation(pad=pad), "output": tmp_path, "encode": encode}
    pretrain(bert(), stored_rows(), settings=SETTINGS, **options)
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(TOKENIZER), **ENCODER)
    other = ca.attach(BertModel(config), ca.ConditionalAdapterConfig(adapter_dim=5))
    with pytest.raises(ca.CheckpointError, match=r"checkpoint-9 holds \d+ tensors"):
        pretrain(other, stored_rows(), settings=SETTINGS, resume=True, **options)


def test_a_stream_is_read_no_further_than_needed(tmp_path) -> None:
    """Data may be larger than memory: only the window is held."""
    read = 0

    class Endless:
        def __iter__(self):
            nonlocal read
            while True:
                yield from texts(10)
                read += 10

    settings = PretrainingSettings(max_steps=3, batch_size=4, shuffle_window=20)
    pretrain(
        bert(), Endless(), objective=Distillation(pad=pad), output=tmp_path, settings=settings,
        encode=encode,
    )  # fmt: skip
    assert read <= 60


@pytest.mark.parametrize("name", ["t5", "whisper", "dinov2", "albert"])
def test_every_modality_can_be_distilled(tmp_path, name) -> None:
    model = ca.attach(TINY_MODELS[name].build("sdpa"), ELASTIC)
    inputs = TINY_MODELS[name].inputs()
    inputs.pop("decoder_input_ids", None)
    rows = [{key: value[row] for key, value in inputs.items()} for row in range(2)]
    settings = PretrainingSettings(max_steps=2, batch_size=2, log_every=1, save_every=1)
    trainer = pretrain(model, rows, objective=Distillation(), output=tmp_path, settings=settings)
    first, second = losses(trainer)
    assert 0 < second["loss"] < 10
    assert first["loss"] != second["loss"]


def test_a_moving_teacher_is_refused(tmp_path) -> None:
    settings = PretrainingSettings(trainable="all")
    with pytest.raises(ca.ConfigError, match="teacher of Distillation"):
        pretrain(bert(), [], objective=Distillation(), output=tmp_path, settings=settings)


def test_no_rows_and_no_checkpoint_are_refused(tmp_path) -> None:
    options = {"objective": Distillation(), "output": tmp_path, "settings": SETTINGS}
    for rows in ([], iter([])):
        with pytest.raises(ca.DataError, match="has no rows"):
            pretrain(bert(), rows, **options)
    with pytest.raises(ca.ConfigError, match="nothing to resume"):
        pretrain(bert(), stored_rows(), resume=True, **options)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("max_steps", 0, "max_steps must be at least 1, got 0"),
        ("trainable", "some", "trainable must be 'new_only' or 'all', got 'some'"),
        ("save_every", 15, r"save_every must be a multiple of log_every \(10\), got 15"),
        ("log_every", 0, "log_every must be at least 1, got 0"),
        ("shuffle_window", 0, "shuffle_window must be at least 1, got 0"),
        ("seed", -1, "seed must be at least 0, got -1"),
        ("backbone_learning_rate", 0, "backbone_learning_rate must be above 0, got 0"),
    ],
)
def test_bad_settings_are_refused(field, value, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        PretrainingSettings(**{field: value})
