"""Encoders of waveforms."""

from dataclasses import replace

import torch
import transformers as hf
from torch import Tensor

from ._builder import ENCODER, VOCABULARY, Inputs, TinyModel, builder

# Two convolutions, of which 8 samples make a frame.
WAVEFORM = ENCODER | {
    "vocab_size": VOCABULARY,
    "conv_dim": (16, 16),
    "conv_kernel": (4, 2),
    "conv_stride": (4, 2),
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}


def waveform_inputs() -> Inputs:
    """Two waveforms of 11 frames."""
    return {"input_values": torch.randn(2, 88)}


def pad_samples(inputs: Inputs, side: str) -> Inputs:
    """Make the second waveform 7 frames long."""
    mask = torch.ones(2, 88, dtype=torch.int64)
    mask[1, 56:] = 0
    return {"input_values": inputs["input_values"] * mask, "attention_mask": mask}


def valid_frames(model: hf.PreTrainedModel, inputs: Inputs, seq: int) -> Tensor:
    if "attention_mask" not in inputs:
        return torch.ones(2, seq, dtype=torch.bool)
    return model._get_feature_vector_attention_mask(seq, inputs["attention_mask"])


WEIGHT_NORM = {
    "test_pickles_are_whole_and_independent": (
        "torch does not pickle the parametrisation in the dense model (weight norm)"
    )
}


def waveform_model(model_class: type, config_class: type, **settings: object) -> TinyModel:
    """Build a family with wav2vec 2.0's names of settings."""
    return TinyModel(
        builder(model_class, config_class, **(WAVEFORM | settings)),
        waveform_inputs,
        paddings=("none", "right"),
        pad=pad_samples,
        units_per_token=8,
        valid=valid_frames,
        skips=WEIGHT_NORM,
    )


def wavlm(name: str, **settings: object) -> TinyModel:
    """Build WavLM, which has an attention of its own."""
    checkpointing = f"test_gradient_checkpointing_gives_the_same_gradients[{name}-k_to_k-True]"
    skips = {
        checkpointing: "the backward pass of the dense model never ends (reentrant checkpointing)",
        "test_the_frozen_layer_computes_on_the_chosen_tokens_alone": (
            "the dense model uses the weights of its maps without calling them"
        ),
    }
    return replace(
        waveform_model(
            hf.WavLMForCTC, hf.WavLMConfig, num_buckets=8, max_bucket_distance=6, **settings
        ),
        attentions=("eager",),
        has_k_to_all=False,
        has_flat_masks=True,
        skips=WEIGHT_NORM | skips,
    )


WAV2VEC2_MODELS = {
    "wav2vec2": waveform_model(hf.Wav2Vec2ForCTC, hf.Wav2Vec2Config),
    "wav2vec2_stable": waveform_model(
        hf.Wav2Vec2ForCTC, hf.Wav2Vec2Config, do_stable_layer_norm=True
    ),
    "hubert": waveform_model(hf.HubertForSequenceClassification, hf.HubertConfig),
    "hubert_stable": waveform_model(hf.HubertForCTC, hf.HubertConfig, do_stable_layer_norm=True),
    "unispeech": waveform_model(hf.UniSpeechForCTC, hf.UniSpeechConfig),
    "unispeech-sat_stable": waveform_model(
        hf.UniSpeechSatForCTC, hf.UniSpeechSatConfig, do_stable_layer_norm=True
    ),
    "data2vec-audio": replace(
        waveform_model(
            hf.Data2VecAudioForCTC,
            hf.Data2VecAudioConfig,
            conv_pos_kernel_size=3,
            num_conv_pos_embeddings=2,
        ),
        skips={
            "test_a_sequence_gets_the_same_answer_alone_and_in_a_padded_batch": (
                "the dense model's stack of position convolutions reads padding"
            ),
        },
    ),
    "wavlm": wavlm("wavlm"),
    "wavlm_stable": wavlm("wavlm_stable", do_stable_layer_norm=True),
}
