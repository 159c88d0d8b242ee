"""Nomic BERT, GTE and Jina embeddings v3: post-norm, with rotary positions."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

NOMIC_BERT = register_architecture(
    ArchitectureSpec(
        model_types=("nomic_bert", "gte", "jina_embeddings_v3"),
        layers="layers",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_embeddings": TokenAxis.TOKEN,
            "position_ids": TokenAxis.TOKEN,
        },
        num_prefix_tokens=1,  # CLS
        attention="self_attn",
    )
)
