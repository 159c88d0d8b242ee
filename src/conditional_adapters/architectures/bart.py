"""BART and its post-norm relatives: positions are in the embeddings, masks hide padding only."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

BART = register_architecture(
    ArchitectureSpec(
        model_types=("bart", "blenderbot-small", "marian", "plbart"),
        layers="encoder.layers",
        encoder="encoder",
        decoder_layers="decoder.layers",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="self_attn",
    )
)
