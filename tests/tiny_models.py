"""Small random models of every supported architecture, with inputs to match."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf
from torch import Tensor

VOCABULARY, HIDDEN, HEADS, LAYERS, SEQ = 60, 32, 4, 3, 11


@dataclass(frozen=True)
class TinyModel:
    """How to build one architecture, and what it takes."""

    build: Callable[[str], hf.PreTrainedModel]  # attention implementation -> model
    inputs: Callable[[], dict[str, Tensor]]  # a batch of two, without padding
    has_padding: bool  # takes an attention mask over its tokens
    num_prefix_tokens: int


def text_inputs() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, VOCABULARY, (2, SEQ))}


def image_inputs() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def seq2seq_inputs() -> dict[str, Tensor]:
    return text_inputs() | {"decoder_input_ids": torch.randint(3, VOCABULARY, (2, 4))}


def speech_inputs() -> dict[str, Tensor]:
    return {
        "input_features": torch.randn(2, 8, 40),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (2, 4)),
    }


def _build(model_class: type, config_class: type, **settings: object) -> Callable:
    def build(attention: str) -> hf.PreTrainedModel:
        config = config_class(attn_implementation=attention, **settings)
        return model_class(config).eval()

    return build


_ENCODER = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
}
_BERT = _ENCODER | {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "num_labels": 3}
_IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 3}
_T5 = {
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
}
_WHISPER = {
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

TINY_MODELS: dict[str, TinyModel] = {
    "bert": TinyModel(
        _build(hf.BertForSequenceClassification, hf.BertConfig, **_BERT), text_inputs, True, 1
    ),
    "roberta": TinyModel(
        _build(hf.RobertaForSequenceClassification, hf.RobertaConfig, **_BERT),
        text_inputs,
        True,
        1,
    ),
    "electra": TinyModel(
        _build(
            hf.ElectraForSequenceClassification,
            hf.ElectraConfig,
            **_BERT,
            embedding_size=HIDDEN,
        ),
        text_inputs,
        True,
        1,
    ),
    "vit": TinyModel(
        _build(hf.ViTForImageClassification, hf.ViTConfig, **_ENCODER, **_IMAGE),
        image_inputs,
        False,
        1,
    ),
    "dinov2": TinyModel(
        _build(hf.Dinov2ForImageClassification, hf.Dinov2Config, **_ENCODER, **_IMAGE),
        image_inputs,
        False,
        1,
    ),
    "dinov2_with_registers": TinyModel(
        _build(
            hf.Dinov2WithRegistersForImageClassification,
            hf.Dinov2WithRegistersConfig,
            **_ENCODER,
            **_IMAGE,
            num_register_tokens=2,
        ),
        image_inputs,
        False,
        3,
    ),
    "whisper": TinyModel(
        _build(hf.WhisperForConditionalGeneration, hf.WhisperConfig, **_WHISPER),
        speech_inputs,
        False,
        0,
    ),
    "t5": TinyModel(
        _build(hf.T5ForConditionalGeneration, hf.T5Config, **_T5), seq2seq_inputs, True, 0
    ),
}


def padded(inputs: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """Make the second row four tokens shorter, with padding on one side."""
    mask = torch.ones_like(inputs["input_ids"])
    if side == "left":
        mask[1, :4] = 0
    else:
        mask[1, -4:] = 0
    return inputs | {
        "input_ids": inputs["input_ids"].masked_fill(mask == 0, 0),
        "attention_mask": mask,
    }
