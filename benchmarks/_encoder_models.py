"""The encoders of the benchmarks and their inputs."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
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
from conditional_adapters.toolkit.assets import load_packaged_model

ADAPTER_DIM = 64
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _bert() -> PreTrainedModel:
    return BertModel(BertConfig(max_position_embeddings=8192), add_pooling_layer=False)


def _t5() -> PreTrainedModel:
    return T5EncoderModel(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))


def _vit(pixels: int) -> PreTrainedModel:
    return ViTModel(ViTConfig(image_size=pixels), add_pooling_layer=False)


def _whisper() -> PreTrainedModel:
    size = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8}
    # The encoder with a small head; transformers has no Whisper encoder without a decoder or head.
    return WhisperForAudioClassification(WhisperConfig(**size, encoder_ffn_dim=2048))


# Names that begin with "packaged" have real weights, the others random weights.
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "packaged-minilm": partial(load_packaged_model, "minilm"),
    "packaged-dinov2": partial(load_packaged_model, "dinov2"),
    "bert-base": _bert,
    "t5-base": _t5,
    "vit-base-224": partial(_vit, 224),
    "vit-base-448": partial(_vit, 448),
    "whisper-base": _whisper,
}


def build(name: str, dtype: str) -> PreTrainedModel:
    """A model with a dense adapter, in evaluation mode."""
    torch.manual_seed(0)
    model = MODELS[name]().eval().to(TYPES[dtype])
    return ca.attach(
        model, ca.ConditionalAdapterConfig(reduction_factor=1, adapter_dim=ADAPTER_DIM)
    )


def make_inputs(model: PreTrainedModel, batch: int, tokens: int | None) -> dict[str, Tensor]:
    """Random token ids, pixels or spectrograms."""
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.randint(model.config.vocab_size, (batch, tokens or 512))}
    if model.main_input_name == "pixel_values":
        size = 224 if model.config.model_type == "dinov2" else model.config.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, dtype=model.dtype)}
    frames = 2 * model.config.max_source_positions
    return {"input_features": torch.randn(batch, model.config.num_mel_bins, frames).to(model.dtype)}


def lengths_of(model: PreTrainedModel, wanted: list[int]) -> list[int | None]:
    """The lengths that a text model can read; None for models with a fixed length."""
    if model.main_input_name != "input_ids":
        return [None]
    longest = getattr(model.config, "max_position_embeddings", None) or max(wanted)
    return [tokens for tokens in wanted if tokens <= longest]


def prepare(model: PreTrainedModel, factor: float | None) -> None:
    """Switch the model to dense (None), dense with adapters (1) or conditional."""
    ca.set_adapter(model, None if factor is None else "default")
    if factor is not None:
        ca.set_reduction_factor(model, factor)
