"""MPNet: BERT with a relative position bias that the encoder makes once for all layers.

The model keeps its keyword arguments to itself, so the lengths are read off the mask that it gives
to its encoder. Attention is computed in place; k-to-all is not available.
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
