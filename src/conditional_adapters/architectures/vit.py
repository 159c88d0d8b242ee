"""Vision Transformers and the Audio Spectrogram Transformer: pre-norm, positions in the embeddings.

I-JEPA has no CLS token: its head takes the mean of all patches. One variant of DINOv2 has register
tokens after CLS.
"""

from dataclasses import replace

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

IJEPA = register_architecture(replace(VIT, model_types=("ijepa",), num_prefix_tokens=0))

DEIT = register_architecture(
    replace(
        VIT,
        model_types=("deit", "audio-spectrogram-transformer"),
        num_prefix_tokens=2,  # CLS and the distillation token
    )
)

DINOV2 = register_architecture(
    replace(
        VIT,
        model_types=("dinov2", "dinov2_with_registers"),
        layers="encoder.layer",
        input_norm="norm1",
        prefix_fields=("num_register_tokens",),
    )
)
