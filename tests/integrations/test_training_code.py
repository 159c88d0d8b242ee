"""Trainer, accelerate and pipelines take an attached model; the snippets of their page run."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2ForImageClassification,
    Trainer,
    TrainingArguments,
)

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters
from tests.helpers.documents import HUB_NAMES, snippets
from tests.helpers.tiny_bert import WORDS, word_tokenizer, write_bert
from tests.helpers.tiny_whisper import write_whisper

PAGE = "docs/training-code.md"
TEXTS = [" ".join(WORDS[i : i + 5 + i % 3]) for i in range(16)]


@pytest.fixture
def scope(tmp_path, monkeypatch) -> dict[str, object]:
    """Tiny models under the names of the page, and what its reader has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_bert(Path("bert"), word_tokenizer())
    write_whisper("whisper")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 1}
    config = Dinov2Config(**sizes, image_size=28, patch_size=7, num_labels=3)
    Dinov2ForImageClassification(config).save_pretrained("dinov2")
    shape = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=shape).save_pretrained("dinov2")
    rows = [f"{text},{index % 3}" for index, text in enumerate(TEXTS)]
    Path("train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    picture = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype="u1"))
    recording = np.random.default_rng(0).normal(size=16000).astype("f4") / 100
    return {"texts": TEXTS, "picture": picture, "recording": recording}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_page_runs_and_its_pipelines_answer_as_the_models_do(scope) -> None:
    for index, code in enumerate(snippets(PAGE, "python")):
        for name, local in HUB_NAMES.items():
            code = code.replace(name, local)
        code = code.replace("bf16=True", "bf16=True, use_cpu=True, report_to=[]")
        exec(compile(code, PAGE, "exec"), scope)
        if index == 0:
            assert all(p.isfinite().all() for _, p in adapter_parameters(scope["model"], "default"))
            assert Path("news-adapter/adapter_model.safetensors").exists()
        if index == 2:
            model, batch = scope["model"], scope["tokenizer"](TEXTS, padding=True)
            with torch.no_grad():
                inputs = {name: torch.tensor(values) for name, values in batch.items()}
                scores = model(**inputs).logits.softmax(-1)
            assert [answer["label"] for answer in scope["answers"]] == [
                model.config.id2label[int(i)] for i in scores.argmax(-1)
            ]
            found = torch.tensor([answer["score"] for answer in scope["answers"]])
            torch.testing.assert_close(found, scores.max(-1).values, atol=1e-5, rtol=0)
        if index == 3:
            pixels = scope["processor"](scope["picture"], return_tensors="pt")
            with torch.no_grad():
                best = scope["model"](**pixels).logits.softmax(-1).max()
            assert scope["seen"][0]["score"] == pytest.approx(best.item(), abs=1e-5)
    arguments = {"sampling_rate": 16000, "return_tensors": "pt", "return_attention_mask": True}
    features = scope["processor"](scope["recording"], **arguments)
    with warnings.catch_warnings(action="ignore"):
        tokens = scope["model"].generate(**features, num_beams=5)  # as the pipeline does
    assert scope["heard"]["text"] == scope["processor"].decode(tokens[0], skip_special_tokens=True)


def make_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ca.attach(
        BertForSequenceClassification(config), ca.ConditionalAdapterConfig(reduction_factor=3)
    )


def train(tmp_path: Path, **settings: object) -> tuple[dict[str, Tensor], float]:
    """Train two steps of eight rows; return what was trained and the mean loss."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": torch.randint(50, (12,), generator=generator),
            "labels": torch.tensor(i % 3),
        }
        for i in range(16)
    ]
    model = make_model()
    model.accepts_loss_kwargs = False  # see the page
    defaults = {"per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    fixed = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        lr_scheduler_type="constant",
        dataloader_pin_memory=False,
        **{**defaults, **fixed, **settings},
    )
    result = Trainer(model, arguments, train_dataset=rows).train()
    return dict(adapter_parameters(model, "default")), result.training_loss


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path) -> None:
    whole, loss = train(tmp_path)
    parts, loss_of_parts = train(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    before = dict(adapter_parameters(make_model(), "default"))
    assert any((whole[name] - before[name]).abs().max() > 1e-3 for name in whole)
    for name, expected in whole.items():
        torch.testing.assert_close(
            parts[name], expected, atol=1e-6, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert loss_of_parts == pytest.approx(loss, rel=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_bf16_trains_close_to_float32_and_keeps_float32_parameters(
    tmp_path, is_checkpointed
) -> None:
    _, loss = train(tmp_path)
    trained, loss_of_bf16 = train(tmp_path, bf16=True, gradient_checkpointing=is_checkpointed)
    before = dict(adapter_parameters(make_model(), "default"))
    assert loss_of_bf16 == pytest.approx(loss, rel=0.05)
    for parameter in trained.values():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()
    routers = [name for name in trained if "router" in name]
    assert len(routers) == 3
    for name in routers[:2]:  # the head reads one token, which the last layer takes in any case
        assert not torch.equal(trained[name], before[name])
