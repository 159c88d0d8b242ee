"""DeiT and the Audio Spectrogram Transformer: as ViT, with a distillation token after CLS."""

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

DEIT = register_architecture(
    ArchitectureSpec(
        model_types=("deit", "audio-spectrogram-transformer"),
        layers="layers",
        input_norm="layernorm_before",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=2,  # CLS and the distillation token
        attention="attention",
    )
)
