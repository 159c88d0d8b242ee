"""DINOv2: as ViT, with layer scale, and registers after CLS in one variant."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

DINOV2 = register_architecture(
    ArchitectureSpec(
        model_types=("dinov2", "dinov2_with_registers"),
        layers="encoder.layer",
        input_norm="norm1",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention",
        prefix_fields=("num_register_tokens",),
    )
)
