"""Conformers: blocks with a convolution over neighbours between attention and feed-forward.

The convolution runs on all tokens (see `modules.conformer`), so its mask, `conv_attention_mask`, is
not gathered. The block itself gathers positions.
"""

from ..modules import ArchitectureSpec, ConditionalConformerLayer, ConformerAttention, TokenAxis
from ._registry import register_architecture

CONFORMER = register_architecture(
    ArchitectureSpec(
        model_types=("wav2vec2-conformer", "wav2vec2-bert"),
        layers="encoder.layers",
        encoder="encoder",  # gets the mask over frames
        input_norm="ffn1_layer_norm",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="self_attn",
        attention_mixin=ConformerAttention,
        layer_mixin=ConditionalConformerLayer,
    )
)
