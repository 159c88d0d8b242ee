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


BART = {
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
GEMMA = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "sliding_window": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def t5_like(model_class: type, config_class: type, **settings: object) -> TinyModel:
    """Build a family with relative positions and T5's names of settings."""
    return TinyModel(
        builder(model_class, config_class, **(T5 | settings)),
        sequence_to_sequence_inputs,
        paddings=("none", "right", "left"),
    )


def bart_like(
    model_class: type,
    config_class: type,
    paddings: tuple[str, ...] = ("none", "right"),
    **settings: object,
) -> TinyModel:
    """Build a family with BART's names of settings; most count positions from the left end."""
    return TinyModel(
        builder(model_class, config_class, **(BART | settings)),
        sequence_to_sequence_inputs,
        paddings=paddings,
    )


def t5gemma(attention: str) -> hf.PreTrainedModel:
    """Build a T5Gemma model whose decoder is narrower than its encoder."""
    decoder = GEMMA | {"hidden_size": 16, "num_hidden_layers": 2}
    config = hf.T5GemmaConfig(
        encoder=GEMMA, decoder=decoder, vocab_size=VOCABULARY, attn_implementation=attention
    )
    return hf.T5GemmaForConditionalGeneration(config).eval()


SEQUENCE_TO_SEQUENCE_MODELS = {
    "t5": t5_like(hf.T5ForConditionalGeneration, hf.T5Config),
    "mt5": t5_like(hf.MT5ForConditionalGeneration, hf.MT5Config),
    "umt5": t5_like(hf.UMT5ForConditionalGeneration, hf.UMT5Config),
    "bart": bart_like(hf.BartForConditionalGeneration, hf.BartConfig),
    "marian": bart_like(hf.MarianMTModel, hf.MarianConfig),
    "blenderbot-small": bart_like(
        hf.BlenderbotSmallForConditionalGeneration, hf.BlenderbotSmallConfig
    ),
    "plbart": bart_like(hf.PLBartForConditionalGeneration, hf.PLBartConfig),
    "mbart": bart_like(hf.MBartForConditionalGeneration, hf.MBartConfig),
    # Large weights: beside its sinusoids, small embeddings would make all rows alike.
    "pegasus": bart_like(hf.PegasusForConditionalGeneration, hf.PegasusConfig, init_std=0.2),
    "blenderbot": bart_like(hf.BlenderbotForConditionalGeneration, hf.BlenderbotConfig),
    # Counts positions from the first token that is no padding.
    "m2m_100": bart_like(
        hf.M2M100ForConditionalGeneration, hf.M2M100Config, paddings=("none", "right", "left")
    ),
    "t5gemma": TinyModel(
        t5gemma,
        sequence_to_sequence_inputs,
        paddings=("none", "right", "left"),
        attentions=("eager",),
    ),
}
