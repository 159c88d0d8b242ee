"""DistilBERT: BERT with other names."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

DISTILBERT = register_architecture(
    ArchitectureSpec(
        model_types=("distilbert",),
        layers="transformer.layer",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention",
    )
)
