"""BART and its relatives: positions in the embeddings, masks that hide padding only.

mBART and its relatives, such as NLLB ("m2m_100"), are pre-norm.
"""

from dataclasses import replace

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

MBART = register_architecture(
    replace(
        BART,
        model_types=("blenderbot", "m2m_100", "mbart", "pegasus"),
        input_norm="self_attn_layer_norm",
    )
)
