"""Encoder-decoders of text."""

import transformers as hf

from ._builder import (
    HEADS,
    HIDDEN,
    LAYERS,
    VOCABULARY,
    TinyModel,
    builder,
    sequence_to_sequence_inputs,
)

T5 = {
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
}


def t5_like(model_class: type, config_class: type, **settings: object) -> TinyModel:
    """Build a family with relative positions and T5's names of settings."""
    return TinyModel(
        builder(model_class, config_class, **(T5 | settings)),
        sequence_to_sequence_inputs,
        paddings=("none", "right", "left"),
    )


SEQUENCE_TO_SEQUENCE_MODELS = {
    "t5": t5_like(hf.T5ForConditionalGeneration, hf.T5Config),
}
