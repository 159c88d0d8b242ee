"""Encoders of speech."""

import torch
import transformers as hf

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


SPEECH_MODELS = {
    # Windows have one length: the mask of the speech is no padding mask
    # (architectures/test_whisper.py).
    "whisper": TinyModel(
        builder(hf.WhisperForConditionalGeneration, hf.WhisperConfig, **WHISPER), whisper_inputs
    ),
}
