"""Whisper's windows of 30 seconds: routing follows the speech in them."""

import math

import pytest
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

import conditional_adapters as ca
from conditional_adapters._attachment import conditional_layers
from tests.tiny_models import TINY_MODELS
from tests.tiny_models.speech import WHISPER

REDUCTION = 4
CONFIG = ca.ConditionalAdapterConfig(reduction_factor=REDUCTION)


def conditional_whisper():
    model = ca.attach(TINY_MODELS["whisper"].build("sdpa"), CONFIG)
    for layer in conditional_layers(model):
        torch.nn.init.normal_(layer.coda_adapters["default"].router.weight)
    return model


def budgets(routing) -> list[list[int]]:
    return [decision.is_selected.sum(-1).tolist() for decision in routing.layers]


def test_the_budget_follows_the_frames_of_speech() -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].make_inputs("right")
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    assert budgets(routing) == [[5, 3]] * 3  # 20 and 12 tokens
    for decision in routing.layers:
        assert (decision.selected_indices[1][decision.is_selected[1]] < 12).all()


def test_short_clips_cost_less_than_windows() -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].make_inputs("right")
    inputs["attention_mask"][0, 16:] = 0  # the longest has 12 tokens now
    rows: set[int] = set()
    layer = conditional_layers(model)[0]
    layer.fc1.register_forward_pre_hook(lambda module, args: rows.add(args[0].shape[1]) or None)
    with torch.no_grad():
        model(**inputs)
    assert rows == {3}


@pytest.mark.parametrize("num_beams", [1, 2])
def test_generation_hands_the_mask_to_the_router(num_beams: int) -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].make_inputs("right")
    with torch.no_grad(), ca.record_routing(model) as routing:
        generated = model.generate(
            inputs["input_features"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=4,
            num_beams=num_beams,
        )
        expected = budgets(routing)
        model(**inputs)
    assert expected == budgets(routing) == [[5, 3]] * 3
    assert generated.shape[0] == 2


def test_without_a_mask_every_window_is_full() -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].inputs()
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    assert budgets(routing) == [[5, 5]] * 3


def test_the_mask_of_a_long_recording_is_no_mask_of_its_windows() -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].inputs()
    encoder = model.get_encoder()
    with torch.no_grad(), ca.record_routing(model) as routing:
        encoder(inputs["input_features"], attention_mask=torch.ones(2, 90, dtype=torch.int64))
    assert budgets(routing) == [[5, 5]] * 3


def test_a_window_of_silence_stays_finite() -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].make_inputs("right")
    inputs["attention_mask"][1] = 0
    with torch.no_grad(), ca.record_routing(model) as routing:
        assert model(**inputs).logits.isfinite().all()
    assert budgets(routing) == [[5, 0]] * 3


def test_frames_of_the_feature_extractor_become_tokens() -> None:
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=4)
    model = ca.attach(
        WhisperForConditionalGeneration(
            WhisperConfig(**WHISPER | {"max_source_positions": 200})
        ).eval(),
        CONFIG,
    )
    clips = [torch.randn(16000).numpy(), torch.randn(16000 * 2 + 801).numpy()]
    features = extractor(
        clips, sampling_rate=16000, return_attention_mask=True, return_tensors="pt"
    )
    tokens = [math.ceil(frames / 2) for frames in features["attention_mask"].sum(-1).tolist()]
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**features, decoder_input_ids=torch.ones(2, 1, dtype=torch.int64))
    assert budgets(routing) == [[math.ceil(n / REDUCTION) for n in tokens]] * 3
    assert tokens == [50, 103]


def test_the_classifier_without_a_mask_argument_takes_full_windows() -> None:
    model = WhisperForAudioClassification(WhisperConfig(**WHISPER, num_labels=3)).eval()
    ca.attach(model, CONFIG)
    with torch.no_grad(), ca.record_routing(model) as routing:
        assert model(torch.randn(2, 8, 40)).logits.shape == (2, 3)
    assert budgets(routing) == [[5, 5]] * 3
