"""Encoders with rotary positions: Nomic BERT, GTE, Jina embeddings v3 and EuroBERT.

EuroBERT is pre-norm, and several of its queries share a key and a value.
"""

from dataclasses import replace

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
        num_prefix_tokens=1,  # CLS, or the beginning of the sequence
        attention="self_attn",
    )
)

EUROBERT = register_architecture(
    replace(NOMIC_BERT, model_types=("eurobert",), input_norm="input_layernorm")
)
