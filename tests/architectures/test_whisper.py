"""Whisper's windows of 30 seconds: n / r tokens, or as many as there are of speech."""

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
from conditional_adapters.model.attachment import conditional_layers
from tests.helpers.tiny_models import TINY_MODELS
from tests.helpers.tiny_models.speech import WHISPER

REDUCTION = 4  # of 20 tokens 5 are left
CONFIG = ca.ConditionalAdapterConfig(reduction_factor=REDUCTION)


def conditional_whisper(**settings):
    config = ca.ConditionalAdapterConfig(**{"reduction_factor": REDUCTION, **settings})
    model = ca.attach(TINY_MODELS["whisper"].build("sdpa"), config)
    for layer in conditional_layers(model):
        part = layer.coda_adapters["default"]
        torch.nn.init.normal_(part.router.weight)
        torch.nn.init.normal_(part.adapter.up, std=0.3)
    return model


def windows(*frames_of_speech):
    """Return windows of 40 frames, 20 tokens, with a mask of so many frames of speech each."""
    mask = torch.arange(40) < torch.tensor(frames_of_speech)[:, None]
    return {
        "input_features": torch.randn(len(frames_of_speech), 8, 40),
        "attention_mask": mask.long(),
        "decoder_input_ids": torch.randint(3, 60, (len(frames_of_speech), 4)),
    }


def budgets(routing) -> list[list[int]]:
    return [decision.is_selected.sum(-1).tolist() for decision in routing.layers]


def routed(model, inputs):
    """Run the model; return its logits and the budgets of the rows in each layer."""
    with torch.no_grad(), ca.record_routing(model) as routing:
        return model(**inputs).logits, budgets(routing)


def slots_at_fc1(model, inputs) -> set[int]:
    slots: set[int] = set()
    handles = [
        layer.fc1.register_forward_pre_hook(lambda module, args: slots.add(args[0].shape[1]))
        for layer in conditional_layers(model)
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return slots


def test_a_row_gets_its_share_of_the_window_or_as_many_tokens_as_it_has_of_speech() -> None:
    inputs = windows(0, 1, 9, 10, 11, 23, 40)  # 0, 1, 5, 5, 6, 12 and 20 tokens
    assert routed(conditional_whisper(), inputs)[1] == [[5, 5, 5, 5, 6, 12, 20]] * 3


def test_routers_choose_and_read_silence_as_they_like() -> None:
    model, inputs = conditional_whisper(), windows(8, 22)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    assert routing.token_mask is None
    for decision in routing.layers:
        for row, budget in enumerate((5, 11)):
            best = decision.router_logits[row].topk(budget).indices.sort().values
            chosen = decision.selected_indices[row][decision.is_selected[row]]
            assert chosen.tolist() == best.tolist()
    last = torch.stack([decision.selected_indices[:, -1] for decision in routing.layers])
    assert (last[:, 0] >= 4).any()


@pytest.mark.parametrize("mode", ["k_to_k", "k_to_all"])
@pytest.mark.parametrize("kind", ["learned", "strided", "first"])
def test_a_row_gives_the_same_alone_as_among_others(mode: str, kind: str) -> None:
    model = ca.attach(
        TINY_MODELS["whisper"].build("sdpa"),
        ca.ConditionalAdapterConfig(
            reduction_factor=REDUCTION, attention_mode=mode, router_kind=kind
        ),
    )
    inputs = windows(0, 15, 23, 36)
    together = routed(model, inputs)[0]
    for row in range(4):
        alone = routed(model, {k: v[row : row + 1] for k, v in inputs.items()})[0]
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "speech, slots",
    [
        pytest.param((4, 9, 10), 5, id="short ones share n / r"),
        pytest.param((4, 9, 23), 12, id="a long one sets the size"),
        pytest.param((40, 40), 20, id="full"),
        pytest.param((23, 23), 12, id="all alike"),
    ],
)
def test_a_batch_has_the_slots_of_the_row_that_needs_most(speech, slots) -> None:
    assert slots_at_fc1(conditional_whisper(), windows(*speech)) == {slots}


def test_a_batch_of_short_clips_is_routed_as_without_a_mask() -> None:
    model, inputs = conditional_whisper(), windows(4, 10)
    with_mask = routed(model, inputs)[0]
    del inputs["attention_mask"]
    assert torch.equal(with_mask, routed(model, inputs)[0])


@pytest.mark.parametrize("num_beams", [1, 2])
def test_generation_hands_the_mask_to_the_router(num_beams: int) -> None:
    model, inputs = conditional_whisper(), windows(40, 23)
    with torch.no_grad(), ca.record_routing(model) as routing:
        generated = model.generate(
            inputs["input_features"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=4,
            num_beams=num_beams,
        )
        assert budgets(routing) == [[20, 12]] * 3
    assert generated.shape[0] == 2


def test_the_dense_model_and_r_1_do_not_see_the_mask() -> None:
    model, inputs = TINY_MODELS["whisper"].build("sdpa"), windows(40, 7)
    plain = {k: v for k, v in inputs.items() if k != "attention_mask"}
    features, mask = inputs["input_features"], inputs["attention_mask"]
    with torch.no_grad():
        dense = model(**plain).logits
        words = model.generate(features, max_new_tokens=4)
        assert torch.equal(model(**inputs).logits, dense)
        assert torch.equal(model.generate(features, attention_mask=mask, max_new_tokens=4), words)
        ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=1))
        assert slots_at_fc1(model, inputs) == {20}
        torch.testing.assert_close(model(**inputs).logits, dense)


def test_without_a_mask_every_window_gets_its_share() -> None:
    inputs = windows(40, 23)
    del inputs["attention_mask"]
    assert routed(conditional_whisper(), inputs)[1] == [[5, 5]] * 3


def test_the_mask_of_a_long_recording_is_no_mask_of_its_windows() -> None:
    model, inputs = conditional_whisper(), TINY_MODELS["whisper"].inputs()
    encoder = model.get_encoder()
    with torch.no_grad(), ca.record_routing(model) as routing:
        encoder(inputs["input_features"], attention_mask=torch.ones(2, 90, dtype=torch.int64))
    assert budgets(routing) == [[5, 5]] * 3


def test_a_factor_that_is_sampled_in_training_leaves_the_floor() -> None:
    model, inputs = conditional_whisper(reduction_factor=(2, 10)), windows(4, 14)
    model.train()
    seen = {tuple(routed(model, inputs)[1][0]) for _ in range(20)}
    assert seen == {(10, 10), (2, 7)}


def test_rows_with_adapters_of_their_own_have_the_floor_as_well() -> None:
    model, inputs = conditional_whisper(), windows(4, 23, 4, 23, 23)
    config = ca.ConditionalAdapterConfig(reduction_factor=2)
    ca.add_adapter(model, config, adapter_name="other")
    names = ["default", "default", "other", "other", None]
    with torch.no_grad():
        together = model(**inputs, adapter_names=names).logits
        for row, name in enumerate(names):
            ca.set_adapter(model, name)
            alone = model(**{k: v[row : row + 1] for k, v in inputs.items()}).logits
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.compile
def test_tracing_does_not_ask_for_the_floors_and_gives_the_same() -> None:
    encoder, inputs = conditional_whisper().get_encoder(), windows(4, 23)
    del inputs["decoder_input_ids"]
    sample = tuple(inputs.values())
    program = torch.export.export(encoder, sample, strict=False)
    with torch.no_grad():
        expected = encoder(**inputs).last_hidden_state
        actual = program.module()(*sample).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_frames_of_the_feature_extractor_become_tokens() -> None:
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=4)
    model = ca.attach(
        WhisperForConditionalGeneration(
            WhisperConfig(**WHISPER | {"max_source_positions": 200})
        ).eval(),
        CONFIG,
    )
    clips = [torch.randn(8000).numpy(), torch.randn(16000 * 2 + 801).numpy()]
    features = extractor(
        clips, sampling_rate=16000, return_attention_mask=True, return_tensors="pt"
    )
    tokens = [math.ceil(frames / 2) for frames in features["attention_mask"].sum(-1).tolist()]
    inputs = {**features, "decoder_input_ids": torch.ones(2, 1, dtype=torch.int64)}
    assert tokens == [25, 103]
    assert routed(model, inputs)[1] == [[50, 103]] * 3


def test_the_classifier_without_a_mask_argument_takes_full_windows() -> None:
    model = WhisperForAudioClassification(WhisperConfig(**WHISPER, num_labels=3)).eval()
    ca.attach(model, CONFIG)
    with torch.no_grad(), ca.record_routing(model) as routing:
        assert model(torch.randn(2, 8, 40)).logits.shape == (2, 3)
    assert budgets(routing) == [[5, 5]] * 3
