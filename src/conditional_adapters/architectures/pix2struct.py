"""Pix2Struct: a pre-norm encoder of patches, positions in the embeddings, no CLS.

The model creates its own mask if it gets none, and does not pass keyword arguments on, so the
record names the inner encoder.
"""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture, register_composite

PIX2STRUCT = register_architecture(
    ArchitectureSpec(
        model_types=("pix2struct_vision_model",),
        layers="encoder.layer",
        encoder="encoder",
        input_norm="pre_attention_layer_norm",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="attention",
    )
)

register_composite("pix2struct", "encoder")
