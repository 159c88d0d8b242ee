"""MPNet: BERT with a relative position bias that the encoder computes once for all layers.

The model does not pass keyword arguments to its encoder, so the lengths come from the encoder's
mask. Attention does not call attention functions of transformers, so k-to-all is not available.
"""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

MPNET = register_architecture(
    ArchitectureSpec(
        model_types=("mpnet",),
        layers="encoder.layer",
        encoder="encoder",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_bias": TokenAxis.RELATIVE_BIAS,
        },
        num_prefix_tokens=1,  # CLS
    )
)
