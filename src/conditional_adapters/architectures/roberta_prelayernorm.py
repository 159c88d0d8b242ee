"""BERT with the norms in front: RoBERTa-PreLayerNorm, XLM-RoBERTa-XL, and ESM for proteins.

ESM-2 rotates queries and keys; the others have no rotary tables.
"""

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

XLM_ROBERTA_XL = register_architecture(
    ArchitectureSpec(
        model_types=("xlm-roberta-xl",),
        layers="encoder.layer",
        input_norm="attention.self_attn_layer_norm",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention.self",
    )
)
