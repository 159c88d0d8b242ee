"""Encoders of speech."""

import torch
import transformers as hf
from torch import Tensor

from ._builder import HEADS, HIDDEN, LAYERS, VOCABULARY, Inputs, TinyModel, builder

WHISPER = {
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "num_mel_bins": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def whisper_inputs() -> Inputs:
    """Two spectrograms of 40 frames, which make 20 tokens."""
    return {
        "input_features": torch.randn(2, 8, 40),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (2, 4)),
    }


def pad_frames(inputs: Inputs, side: str) -> Inputs:
    """Declare the last 17 frames of the second window silence; 12 tokens are left."""
    mask = torch.ones(2, 40, dtype=torch.int64)
    mask[1, 23:] = 0
    return inputs | {"attention_mask": mask}


def whisper_tokens(model: hf.PreTrainedModel, inputs: Inputs, seq: int) -> Tensor:
    if "attention_mask" not in inputs:
        return torch.ones(2, seq, dtype=torch.bool)
    lengths = (inputs["attention_mask"].sum(-1) + 1) // 2
    return torch.arange(seq) < lengths[:, None]


WINDOWS = "a window of Whisper has one length"
SPEECH_MODELS = {
    "whisper": TinyModel(
        builder(hf.WhisperForConditionalGeneration, hf.WhisperConfig, **WHISPER),
        whisper_inputs,
        paddings=("none", "right"),
        pad=pad_frames,
        valid=whisper_tokens,
        reads_mask_when_dense=False,
        skips={
            "test_a_sequence_gets_the_same_answer_alone_and_in_a_padded_batch": WINDOWS,
            "test_rows_of_padding_and_single_tokens_stay_finite": WINDOWS,
        },
    ),
}
