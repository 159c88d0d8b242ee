"""`coda pretrain`, and `coda train --init` after it, on tiny saved models."""

import csv
import json
import random

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

import conditional_adapters as ca
from conditional_adapters.training import attach_pretrained
from tests.helpers.runner import run
from tests.helpers.tiny_bert import word_tokenizer
from tests.helpers.tiny_models._builder import ENCODER

TENSORS = "adapter_model.safetensors"
FAST = ("--adapter-dim", 4, "--batch-size", 8, "--learning-rate", 0.01, "--save-every", 10)
ELASTIC = ("-r", "2,3,4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved models of both modalities, and data without labels for each."""
    root = tmp_path_factory.mktemp("pretrain")
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer), "max_position_embeddings": 32, "initializer_range": 0.2,
    }  # fmt: skip
    BertModel(BertConfig(**ENCODER, **sizes)).save_pretrained(root / "bert")
    BertForMaskedLM(BertConfig(**ENCODER, **sizes)).save_pretrained(root / "bert-head")
    RobertaModel(RobertaConfig(**ENCODER, **sizes)).save_pretrained(root / "roberta")
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(t5).save_pretrained(root / "t5")
    for name in ("bert", "bert-head", "roberta", "t5"):
        tokenizer.save_pretrained(root / name)
    vit = ViTConfig(**ENCODER, image_size=16, patch_size=4, initializer_range=0.2)
    ViTModel(vit, add_pooling_layer=False).save_pretrained(root / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root / "vit")
    rng = random.Random(0)
    texts = [" ".join(rng.choices([f"w{i}" for i in range(40)], k=12)) for _ in range(40)]
    (root / "data.txt").write_text("\n\n".join(texts) + "\n")
    with (root / "data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((text, "even" if i % 2 else "odd") for i, text in enumerate(texts))
    (root / "images").mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(root / "images" / f"{index}.png")
    return root


def pretrain(folder, model, data, output, *arguments: object) -> dict:
    base = ("--model", folder / model, "--data", folder / data, "--output", folder / output)
    return json.loads(run("pretrain", *base, *FAST, *arguments, "--json").stdout)


@pytest.fixture(scope="module")
def pretrained(folder):
    summary = pretrain(folder, "bert", "data.txt", "run", *ELASTIC, "--steps", 60)
    return folder / "run", summary


def test_the_loss_falls_and_the_adapter_loads(pretrained, folder) -> None:
    output, summary = pretrained
    assert summary["steps"] == 60
    assert summary["last"]["loss"] < 0.8 * summary["first"]["loss"]
    assert 0 <= summary["last"]["router/selection_entropy"] <= 1
    assert list(output.rglob("events.out.tfevents*"))
    assert {path.name for path in output.iterdir()} >= {"adapter", "checkpoint-60"}
    model = AutoModel.from_pretrained(folder / "bert")
    ca.load_adapter(model, summary["adapter"])
    assert ca.read_adapter_config(summary["adapter"])["reduction_factor"] == [2, 3, 4]


def test_the_result_is_a_table_unless_json_is_asked_for(folder) -> None:
    base = ("--model", folder / "bert", "--data", folder / "data.txt", "--output", folder / "z")
    shown = run("pretrain", *base, *FAST, "--steps", 20).stdout
    assert all(title in shown for title in ("step", "loss", "selection", "overlap"))


def test_a_classifier_starts_from_the_pretrained_adapter(pretrained, folder) -> None:
    output, _ = pretrained
    base = ("train", "--model", folder / "bert", "--data", folder / "data.csv", "--batch-size", 8)
    init = ("--init", output / "adapter", "--epochs", 1, "--learning-rate", 1e-9)
    run(*base, *init, "--router-learning-rate", 1e-9, "-r", 4, "--output", folder / "tuned")
    tuned = folder / "tuned" / "adapter"
    config = ca.read_adapter_config(tuned)
    assert config["reduction_factor"] == 4.0  # as given
    assert config["adapter_dim"] == 4  # as pretrained
    before, after = load_file(output / "adapter" / TENSORS), load_file(tuned / TENSORS)
    prefix = "base_model.model."
    assert len(before) > 10
    for key, tensor in before.items():
        moved = after[key.replace(prefix, f"{prefix}bert.")]
        torch.testing.assert_close(moved, tensor, atol=1e-6, rtol=0)
    assert {key.split(".")[2] for key in after if "encoder" not in key} >= {"classifier"}
    run("evaluate", "--adapter", tuned, "--data", folder / "data.csv")


def test_a_classifier_keeps_how_the_adapter_was_configured_except_for_options_given(folder) -> None:
    given = ("--attention-mode", "k_to_all", "--epsilon", 0.5, "--router", "strided", "-r", 2)
    pretrain(folder, "bert", "data.txt", "modes", *given, "--steps", 1)
    init = ("--init", folder / "modes" / "adapter")
    base = ("train", "--model", folder / "bert", "--data", folder / "data.csv", *init)

    def config_after(name: str, *options: object) -> dict:
        run(*base, "--batch-size", 8, "--epochs", 0.1, "--output", folder / name, *options)
        return ca.read_adapter_config(folder / name / "adapter")

    names = ("attention_mode", "epsilon", "router_kind", "reduction_factor", "adapter_dim")
    kept, changed = config_after("kept"), config_after("changed", "--attention-mode", "k_to_k")
    assert [kept[name] for name in names] == ["k_to_all", 0.5, "strided", 2.0, 4]
    # The default, but given.
    assert [changed[name] for name in names] == ["k_to_k", 0.5, "strided", 2.0, 4]


@pytest.mark.parametrize(
    "model, option, message",
    [
        ("bert", ("--adapter-dim", 5), r"wrong shape: .*is \[4, 32\], the model needs \[5, 32\]"),
        ("bert", ("--no-train-norms",), "unexpected: .*LayerNorm"),
        ("roberta", (), "adapter for a bert model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    pretrained, folder, model, option, message
) -> None:
    output, _ = pretrained
    base = ("train", "--model", folder / model, "--data", folder / "data.csv")
    arguments = ("--output", folder / "x", "--init", output / "adapter", *option)
    result = run(*base, *arguments, expect=ca.CheckpointError)
    assert __import__("re").search(message, str(result.exception)), result.exception


def test_a_refused_adapter_leaves_the_model_dense(pretrained) -> None:
    output, _ = pretrained
    model = BertForSequenceClassification(BertConfig(**ENCODER, vocab_size=47))
    before = dict(model.state_dict())
    with pytest.raises(ca.CheckpointError, match="nothing was loaded"):
        attach_pretrained(model, output / "adapter", ca.ConditionalAdapterConfig(adapter_dim=9))
    assert before.keys() == model.state_dict().keys()
    assert attach_pretrained(model, output / "adapter") is model
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("classifier" in name for name in trained)


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_a_run_in_two_parts_gives_the_adapter_of_one(folder, stream) -> None:
    options = (*ELASTIC, "--schedule", "constant", stream, "--log-every", 5)

    def adapter(output: str, *arguments: object) -> dict[str, torch.Tensor]:
        found = pretrain(folder, "bert", "data.txt", output + stream, *options, *arguments)
        return load_file(f"{found['adapter']}/{TENSORS}")

    straight = adapter("straight", "--steps", 20)
    first = adapter("parts", "--steps", 10)
    resumed = adapter("parts", "--steps", 20, "--resume")
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert not all(torch.equal(resumed[key], first[key]) for key in first)


def test_the_heads_of_the_original_objectives_are_used(folder) -> None:
    words = pretrain(
        folder, "bert-head", "data.txt", "words", "--objective", "masked-words", "--steps", 10
    )
    spans = pretrain(folder, "t5", "data.txt", "spans", "--objective", "spans", "--steps", 10)
    for summary in (words, spans):
        assert summary["last"]["loss"] > 0
    described = ca.read_adapter_config(words["adapter"])
    assert described["model_class"] == "BertForMaskedLM"
    classifier = BertForSequenceClassification.from_pretrained(folder / "bert-head")
    attach_pretrained(classifier, words["adapter"])


def test_images_are_pretrained_with_blank_patches_and_by_distillation(folder) -> None:
    for objective in ("masked-patches", "distillation"):
        summary = pretrain(
            folder, "vit", "images", objective, "--objective", objective, "--steps", 40, "--stream"
        )
        assert summary["last"]["loss"] < summary["first"]["loss"]


def test_a_trained_backbone_is_saved_beside_its_adapter(folder) -> None:
    pretrain(folder, "bert", "data.txt", "whole", "--trainable", "all", "--steps", 10)
    model = AutoModel.from_pretrained(folder / "whole" / "model")
    dense = AutoModel.from_pretrained(folder / "bert")
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(model.get_parameter(name), dense.get_parameter(name))
    ca.load_adapter(model, folder / "whole" / "adapter")
    described = ca.read_adapter_config(folder / "whole" / "adapter")
    assert described["base_model_name_or_path"] == str(folder / "whole" / "model")


@pytest.mark.parametrize(
    "model, arguments, error, message",
    [
        ("bert", ("--objective", "masked-words"), ca.ConfigError, "no pretrained head"),
        ("bert", ("--objective", "masked-patches"), ca.ConfigError, "one of distillation, masked-"),
        ("vit", ("--objective", "spans"), ca.ConfigError, "one of distillation, masked-patches"),
        ("bert", ("--resume",), ca.ConfigError, "nothing to resume"),
        ("bert", ("--trainable", "none"), ca.ConfigError, "'new_only' or 'all', got 'none'"),
        ("bert", ("--text-column", "body", "--stream"), ca.DataError, "--text-column"),
    ],
)
def test_bad_arguments_say_what_is_wrong(folder, model, arguments, error, message) -> None:
    base = ("--model", folder / model, "--data", folder / "data.csv", "--output", folder / "bad")
    if model == "vit":
        base = (*base[:3], folder / "images", *base[4:])
    result = run("pretrain", *base, *arguments, expect=error)
    assert message in str(result.exception)


def test_a_bad_row_of_a_stream_is_named_when_it_comes(folder) -> None:
    (folder / "bad.jsonl").write_text('{"text": "w1 w2"}\n{"text": ""}\n')
    base = ("--model", folder / "bert", "--data", folder / "bad.jsonl", "--stream", *FAST)
    result = run("pretrain", *base, "--output", folder / "y", "--steps", 2, expect=ca.DataError)
    assert "bad.jsonl:2" in str(result.exception)
    with pytest.warns(UserWarning, match="skipped 1 of 2 rows"):
        run("pretrain", *base, "--output", folder / "y", "--steps", 2, "--on-bad-row", "skip")
