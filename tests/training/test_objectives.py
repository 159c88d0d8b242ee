import math

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

import conditional_adapters as ca
from conditional_adapters.model.attachment import without_adapter
from conditional_adapters.training import (
    Distillation,
    MaskedLanguageModelling,
    MaskedPatches,
    ModelLoss,
    SpanCorruption,
)
from conditional_adapters.training.objectives import relative_error
from tests.helpers.gradients import assert_trained, gradients_of
from tests.helpers.tiny_bert import SPECIAL, word_tokenizer
from tests.helpers.tiny_models import TINY_MODELS, pad_text
from tests.helpers.tiny_models._builder import ENCODER

TOKENIZER = word_tokenizer([f"w{index}" for index in range(200)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attached(name: str, factor: float = 2):
    model = TINY_MODELS[name].build("sdpa")
    return ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=factor, adapter_dim=4))


def test_the_relative_error_counts_valid_tokens_only() -> None:
    target = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [9.0, 9.0]]])
    states = torch.tensor([[[3.0, 2.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    assert relative_error(states, target, mask).item() == pytest.approx((4 + 1) / (25 + 1))
    assert relative_error(target, target).item() == 0
    assert relative_error(torch.zeros_like(target), target).item() == 1


@pytest.mark.parametrize("name", ["bert", "vit", "t5", "albert", "wav2vec2"])
def test_a_dense_adapter_at_zero_has_nothing_to_learn(name) -> None:
    model = attached(name, factor=1)
    batch = {k: v for k, v in TINY_MODELS[name].inputs().items() if k != "decoder_input_ids"}
    loss = Distillation().loss(model, batch)
    assert loss.total.item() < 1e-10


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_distillation_compares_layer_by_layer_and_ignores_padding(name) -> None:
    model = attached(name)
    batch = pad_text(TINY_MODELS[name].inputs(), "right")
    batch.pop("decoder_input_ids", None)
    encoder = model.encoder if name == "t5" else model.base_model
    with torch.no_grad():
        student = encoder(**batch, output_hidden_states=True)
        with without_adapter(model):
            dense = encoder(**batch, output_hidden_states=True)
    valid = batch["attention_mask"].bool()

    def error(left, right) -> float:
        return (left[valid] - right[valid]).square().sum() / right[valid].square().sum()

    errors = [error(*p) for p in zip(student.hidden_states, dense.hidden_states, strict=True)]
    final = error(student.last_hidden_state, dense.last_hidden_state)
    loss = Distillation(layer_weight=2.0, final_weight=0.5).loss(model, batch)
    assert errors[0] == 0
    assert all(value > 0 for value in errors[1:])
    assert loss.parts["layers"].item() == pytest.approx(float(sum(errors[1:]) / len(errors[1:])))
    assert loss.parts["final"].item() == pytest.approx(float(final))
    total = 2.0 * loss.parts["layers"] + 0.5 * loss.parts["final"]
    assert loss.total.item() == pytest.approx(total.item())


def test_distillation_counts_the_silence_that_whispers_decoder_reads() -> None:
    model = attached("whisper")
    batch = {"input_features": torch.randn(2, 8, 40), "attention_mask": torch.ones(2, 40)}
    batch["attention_mask"][:, 24:] = 0
    encoder = model.get_encoder()
    with torch.no_grad():
        states = encoder(**batch).last_hidden_state
        with without_adapter(model):
            target = encoder(**batch).last_hidden_state
        loss = Distillation(layer_weight=0).loss(model, batch)
    assert loss.total.item() == pytest.approx(relative_error(states, target).item(), rel=1e-5)
    is_speech = torch.arange(20).expand(2, -1) < 12
    speech = relative_error(states, target, is_speech).item()
    assert loss.total.item() != pytest.approx(speech, rel=1e-3)


def test_distillation_trains_the_adapter_and_nothing_else() -> None:
    model = attached("bert").train()
    Distillation().loss(model, TINY_MODELS["bert"].inputs()).total.backward()
    encoder = {n: p for n, p in model.named_parameters() if "encoder" in n}
    for name, parameter in encoder.items():
        is_new = ".coda_adapters." in name or ".coda_copies." in name
        assert (parameter.grad is not None) == is_new, name
    routers = {n: p.grad.abs().sum() for n, p in encoder.items() if ".router." in n}
    assert any(size > 0 for size in routers.values()), routers
    assert all(module.training for module in model.modules())


def test_another_teacher_gives_the_same_loss() -> None:
    model, batch = attached("bert"), TINY_MODELS["bert"].inputs()
    teacher = TINY_MODELS["bert"].build("sdpa")
    state = {k: v for k, v in model.state_dict().items() if "coda_" not in k}
    teacher.load_state_dict(state)
    own = Distillation().loss(model, batch).total
    assert torch.equal(Distillation(teacher=teacher.train()).loss(model, batch).total, own)
    assert Distillation().needs_frozen_backbone
    assert not Distillation(teacher=teacher).needs_frozen_backbone


def test_running_without_an_adapter_changes_nothing() -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=(2, 3), adapter_dim=4)
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"), config)
    inputs = TINY_MODELS["bert"].inputs()
    ca.set_reduction_factor(model, 5)
    frozen = next(p for n, p in model.named_parameters() if ".router." in n)
    frozen.requires_grad_(False)
    with torch.no_grad():
        before = model(**inputs).logits
        with without_adapter(model):
            dense = model(**inputs).logits
        with pytest.raises(ZeroDivisionError), without_adapter(model):
            _ = 1 / 0
        assert torch.equal(model(**inputs).logits, before)
        assert not torch.equal(dense, before)
        assert torch.equal(ca.detach(model)(**inputs).logits, dense)
    assert not frozen.requires_grad


def test_words_are_masked_by_the_generator_alone() -> None:
    objective = MaskedLanguageModelling(TOKENIZER)
    rows = [{"input_ids": [2, *range(10, 60), 3]}, {"input_ids": [2, *range(60, 90), 3]}] * 8
    batch = objective.collate(rows, generator())
    again, other = objective.collate(rows, generator()), objective.collate(rows, generator(1))
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["labels"], other["labels"])
    predicted = batch["labels"] != -100
    assert predicted.sum() / (8 * 80) == pytest.approx(0.15, abs=0.05)
    assert (batch["labels"][predicted] >= len(SPECIAL)).all()
    is_mask = batch["input_ids"] == TOKENIZER.mask_token_id
    assert (is_mask & predicted).sum() / predicted.sum() == pytest.approx(0.8, abs=0.12)
    assert not (is_mask & ~predicted).any()


def test_the_smallest_batch_has_a_masked_word_and_a_finite_loss() -> None:
    config = BertConfig(vocab_size=len(TOKENIZER), **ENCODER)
    model = ca.attach(BertForMaskedLM(config), ca.ConditionalAdapterConfig(adapter_dim=4))
    objective = MaskedLanguageModelling(TOKENIZER)
    for seed in range(10):
        batch = objective.collate([{"input_ids": [2, 9, 3]}], generator(seed))
        assert math.isfinite(objective.loss(model, batch).total.item())


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100])
def test_spans_and_the_rest_put_together_are_the_text(size) -> None:
    objective, end = SpanCorruption(TOKENIZER), TOKENIZER.eos_token_id
    sentinels = objective.sentinels
    assert sentinels == [5, 6]
    for seed in range(20):
        text = [10 + index for index in range(size)]
        left, written = objective.corrupt([*text, end], np.random.default_rng(seed))
        assert left[-1] == written[-1] == end
        spans = {}
        for token in written[:-1]:
            if token in sentinels:
                spans[token] = current = []
            else:
                current.append(token)
        whole = [t for token in left[:-1] for t in spans.get(token, [token])]
        assert whole == text
        assert all(spans.values())
        expected = min(max(round(0.15 * size), 1), size - 1)
        assert sum(map(len, spans.values())) == expected


def test_spans_have_the_right_number_and_the_batch_is_padded() -> None:
    many = word_tokenizer()
    many.add_tokens([f"<extra_id_{index}>" for index in range(2, 30)])
    objective = SpanCorruption(many)
    assert len(objective.sentinels) == 30
    left, written = objective.corrupt(list(range(100, 200)), np.random.default_rng(0))
    assert len(left) == 85 + 5 + 1  # 15 tokens in 5 spans, and the end
    assert len(written) == 15 + 5 + 1
    rows = [{"input_ids": [9, 10, 11, 12, 3]}, {"input_ids": list(range(9, 30))}]
    batch = objective.collate(rows, generator())
    again = objective.collate(rows, generator())
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert batch["attention_mask"].sum(-1).tolist() == [5, 20]
    assert ((batch["input_ids"] == many.pad_token_id) == (batch["attention_mask"] == 0)).all()
    assert (batch["labels"][0] != -100).sum() == 3  # a sentinel, a token, the end


def test_span_corruption_trains_a_t5() -> None:
    config = T5Config(
        vocab_size=len(TOKENIZER), d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = ca.attach(T5ForConditionalGeneration(config), ca.ConditionalAdapterConfig())
    objective = SpanCorruption(TOKENIZER)
    batch = objective.collate([{"input_ids": list(range(9, 30))}], generator())
    objective.loss(model, batch).total.backward()
    adapters = {n: p for n, p in model.named_parameters() if ".coda_adapters." in n}
    assert gradients_of(adapters.items()).keys() == adapters.keys()


@pytest.mark.parametrize("name", ["vit", "dinov2", "deit", "siglip_vision_model"])
def test_blank_patches_are_where_the_states_are_compared(name) -> None:
    """A dense adapter at zero: the loss is what the dense model makes of blanked images."""
    model, images = attached(name, factor=1), TINY_MODELS[name].inputs()["pixel_values"]
    objective = MaskedPatches(patch_size=4, masked_share=0.25)
    batch = objective.collate([{"pixel_values": image} for image in images], generator())
    mask = batch["patch_mask"]
    assert mask.shape == (2, 4, 4)
    assert mask.flatten(1).sum(-1).tolist() == [4, 4]
    blanked = images.clone()
    for row, down, across in mask.nonzero().tolist():
        blanked[row, :, 4 * down : 4 * down + 4, 4 * across : 4 * across + 4] = 0
    with torch.no_grad(), without_adapter(model):
        target = model.base_model(images).last_hidden_state
        states = model.base_model(blanked).last_hidden_state
    is_masked = torch.cat([torch.zeros(2, target.shape[1] - 16).bool(), mask.flatten(1)], 1)
    parts = objective.loss(model, batch).parts
    for part, where in (("masked", is_masked), ("others", ~is_masked)):
        error = (states[where] - target[where]).square().sum() / target[where].square().sum()
        assert parts[part].item() == pytest.approx(error.item(), rel=1e-4)
        assert error > 0


def test_a_model_can_bring_its_own_loss() -> None:
    from transformers import WhisperForConditionalGeneration

    tiny = TINY_MODELS["whisper"].build("sdpa")
    model = ca.attach(WhisperForConditionalGeneration(tiny.config), ca.ConditionalAdapterConfig())
    features = TINY_MODELS["whisper"].inputs()["input_features"]
    rows = [{"input_features": row, "labels": [5, 6, 7]} for row in features]
    objective = ModelLoss()
    loss = objective.loss(model, objective.collate(rows, generator()))
    loss.total.backward()
    assert_trained(p for p in model.named_parameters() if ".router." in p[0])


def test_objectives_refuse_what_they_cannot_use() -> None:
    bare = word_tokenizer()
    bare.mask_token = None
    with pytest.raises(ca.ConfigError, match="has no mask token"):
        MaskedLanguageModelling(bare)
    with pytest.raises(ca.ConfigError, match=r"masked_share must be between 0 and 1, got 1\.5"):
        MaskedLanguageModelling(TOKENIZER, masked_share=1.5)
    with pytest.raises(ca.ConfigError, match="corrupted_share must be between 0 and 1, got 0"):
        SpanCorruption(TOKENIZER, corrupted_share=0)
    with pytest.raises(ca.ConfigError, match=r"mean_length must be at least 1, got 0\.5"):
        SpanCorruption(TOKENIZER, mean_length=0.5)
    with pytest.raises(ca.ConfigError, match="one of them above 0, got 0 and 0"):
        Distillation(layer_weight=0, final_weight=0)
    with pytest.raises(ca.ConfigError, match="between 0 and 1, got 4 and 1"):
        MaskedPatches(patch_size=4, masked_share=1)


def test_a_tokenizer_without_sentinels_is_refused() -> None:
    class Plain:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(ca.ConfigError, match="Plain has no sentinels"):
        SpanCorruption(Plain())


def test_a_model_without_a_head_is_distilled_as_well() -> None:
    model = BertModel(BertConfig(vocab_size=60, **ENCODER), add_pooling_layer=False)
    ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=4))
    assert Distillation().loss(model, TINY_MODELS["bert"].inputs()).total > 0
