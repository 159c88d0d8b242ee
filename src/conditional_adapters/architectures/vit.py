"""Vision Transformers: pre-norm, a CLS token in front, positions in the embeddings.

I-JEPA has no CLS token: its head takes the mean of all patches.
"""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

VIT = register_architecture(
    ArchitectureSpec(
        model_types=("vit", "vit_msn", "vit_mae", "vivit"),
        layers="layers",
        input_norm="layernorm_before",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention",
    )
)

IJEPA = register_architecture(
    ArchitectureSpec(
        model_types=("ijepa",),
        layers="layers",
        input_norm="layernorm_before",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="attention",
    )
)
