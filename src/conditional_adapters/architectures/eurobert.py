"""EuroBERT: pre-norm with rotary positions; several queries share a key and a value."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

EUROBERT = register_architecture(
    ArchitectureSpec(
        model_types=("eurobert",),
        layers="layers",
        input_norm="input_layernorm",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_embeddings": TokenAxis.TOKEN,
            "position_ids": TokenAxis.TOKEN,
        },
        num_prefix_tokens=1,  # beginning of sequence
        attention="self_attn",
    )
)
