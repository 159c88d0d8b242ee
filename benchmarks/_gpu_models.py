"""Large encoders with random weights for the GPU benchmark, built on the device."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
    WhisperConfig,
    WhisperForAudioClassification,
)

import conditional_adapters as ca
from benchmarks._encoder_models import ADAPTER_DIM


@dataclass(frozen=True)
class Encoder:
    """How to build a model: class, configuration and constructor arguments."""

    model: type[PreTrainedModel]
    config: type[Any]
    sizes: dict[str, Any]
    arguments: dict[str, Any]

    def build(self, device: str, dtype: torch.dtype) -> PreTrainedModel:
        """Build the model with a dense adapter, in evaluation mode."""
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model = self.model(self.config(**self.sizes), **self.arguments).eval()
        finally:
            torch.set_default_dtype(before)
        return ca.attach(
            model, ca.ConditionalAdapterConfig(reduction_factor=1, adapter_dim=ADAPTER_DIM)
        )

    def shrunk(self) -> "Encoder":
        """The same architecture in a tiny size."""
        return replace(self, sizes=self.sizes | _TINY[self.config])


_NO_POOLING = {"add_pooling_layer": False}
_VIT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_T5_XL = {
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_heads": 32,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
_WHISPER_LARGE = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "decoder_layers": 1,  # not part of the classifier
}

ENCODERS = {
    "T5-XL": Encoder(T5EncoderModel, T5Config, _T5_XL, {}),
    "ViT-L/16 at 224": Encoder(ViTModel, ViTConfig, _VIT_LARGE, _NO_POOLING),
    "ViT-L/16 at 512": Encoder(ViTModel, ViTConfig, _VIT_LARGE | {"image_size": 512}, _NO_POOLING),
    "Whisper-large-v3": Encoder(WhisperForAudioClassification, WhisperConfig, _WHISPER_LARGE, {}),
    "BERT-base": Encoder(BertModel, BertConfig, {}, _NO_POOLING),
}

_TINY_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_TINY: dict[type[Any], dict[str, Any]] = {
    BertConfig: _TINY_BERT,
    ViTConfig: _TINY_BERT | {"image_size": 64},
    T5Config: {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_heads": 2, "num_layers": 2},
    WhisperConfig: {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "num_mel_bins": 8,
        "max_source_positions": 20,
    },
}
