"""Encoders of speech with a convolution in every layer, for every kind of positions."""

import torch
import transformers as hf

from ._builder import ENCODER, SEQ, VOCABULARY, Inputs, TinyModel, builder
from .wav2vec2 import WAVEFORM, pad_samples, valid_frames, waveform_inputs

CONFORMER = {"conv_depthwise_kernel_size": 5, "max_source_positions": 20}
WAV2VEC2_BERT = (
    ENCODER
    | CONFORMER
    | {
        "vocab_size": VOCABULARY,
        "feature_projection_input_dim": 16,
        "left_max_position_embeddings": 4,
        "right_max_position_embeddings": 2,
        "mask_time_prob": 0.0,
        "layerdrop": 0.0,
    }
)
DISTANCES = (1, 2 * SEQ - 1)  # rows of the table of distances: for the module, and for us


def feature_inputs() -> Inputs:
    """Two spectrograms of 11 frames, each a token."""
    return {"input_features": torch.randn(2, SEQ, 16)}


def pad_features(inputs: Inputs, side: str) -> Inputs:
    """Make the second spectrogram four frames shorter, with padding on one side."""
    mask = torch.ones(2, SEQ, dtype=torch.int64)
    mask[1, slice(4) if side == "left" else slice(-4, None)] = 0
    return {"input_features": inputs["input_features"] * mask[..., None], "attention_mask": mask}


def wav2vec2_conformer(positions: str | None) -> TinyModel:
    """Build a model of waveforms; its convolutions see padding."""
    return TinyModel(
        builder(
            hf.Wav2Vec2ConformerForCTC,
            hf.Wav2Vec2ConformerConfig,
            position_embeddings_type=positions,
            **(WAVEFORM | CONFORMER),
        ),
        waveform_inputs,
        paddings=("none", "right"),
        pad=pad_samples,
        units_per_token=8,
        valid=valid_frames,
        is_padding_invariant=False,
        extra_rows=DISTANCES if positions == "relative" else (),
        skips={
            "test_pickles_are_whole_and_independent": "torch does not pickle modules "
            "with parametrisations, such as the weight norm of the dense model"
        },
    )


def wav2vec2_bert(positions: str | None) -> TinyModel:
    """Build a model of spectrograms; its convolutions are causal and take a mask."""
    return TinyModel(
        builder(
            hf.Wav2Vec2BertForCTC,
            hf.Wav2Vec2BertConfig,
            position_embeddings_type=positions,
            **WAV2VEC2_BERT,
        ),
        feature_inputs,
        # Rotary tables turn the states before they are projected, so these positions are absolute
        # and count from the left end of the padded row.
        paddings=("none", "right") if positions == "rotary" else ("none", "right", "left"),
        pad=pad_features,
        extra_rows=DISTANCES if positions == "relative" else (),
    )


CONFORMER_MODELS = {
    "wav2vec2-conformer": wav2vec2_conformer("relative"),
    "wav2vec2-conformer_rotary": wav2vec2_conformer("rotary"),
    "wav2vec2-conformer_without_positions": wav2vec2_conformer(None),
    "wav2vec2-bert": wav2vec2_bert("relative_key"),
    "wav2vec2-bert_relative": wav2vec2_bert("relative"),
    "wav2vec2-bert_rotary": wav2vec2_bert("rotary"),
    "wav2vec2-bert_without_positions": wav2vec2_bert(None),
}
