"""RemBERT and Megatron-BERT: BERT whose encoder hands no keyword arguments on to its layers.

Megatron-BERT has its norms in front. Attention is computed in place; k-to-all is not available.
"""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

REMBERT = register_architecture(
    ArchitectureSpec(
        model_types=("rembert",),
        layers="encoder.layer",
        passes_context=False,
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
    )
)

MEGATRON_BERT = register_architecture(
    ArchitectureSpec(
        model_types=("megatron-bert",),
        layers="encoder.layer",
        passes_context=False,
        input_norm="attention.ln",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
    )
)
