"""Whisper: a pre-norm encoder over 1500 frames, positions in the embeddings."""

from ..modules import TokenAxis
from ._registry import register_architecture
from ._spec import ArchitectureSpec

WHISPER = register_architecture(
    ArchitectureSpec(
        model_types=("whisper",),
        layers="encoder.layers",
        encoder="encoder",
        decoder_layers="decoder.layers",
        input_norm="self_attn_layer_norm",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="self_attn",
    )
)
