"""RoBERTa-PreLayerNorm and ESM for proteins: pre-norm. Only ESM-2 has rotary positions."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

ROBERTA_PRELAYERNORM = register_architecture(
    ArchitectureSpec(
        model_types=("roberta-prelayernorm", "esm"),
        layers="encoder.layer",
        input_norm="attention.LayerNorm",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_embeddings": TokenAxis.TOKEN,
        },
        num_prefix_tokens=1,  # CLS
        attention="attention.self",
    )
)
