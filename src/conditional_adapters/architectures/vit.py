"""Vision Transformers: pre-norm, a CLS token in front, positions in the embeddings."""

from ..modules import TokenAxis
from ._registry import register_architecture
from ._spec import ArchitectureSpec

VIT = register_architecture(
    ArchitectureSpec(
        model_types=("vit",),
        layers="layers",
        input_norm="layernorm_before",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention",
    )
)
