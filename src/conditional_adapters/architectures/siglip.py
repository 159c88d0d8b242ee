"""The towers of SigLIP and SigLIP 2: as CLIP, without CLS and never causal.

The text towers pool the last token even if it is padding, and were trained without a mask, so give
none. SigLIP 2 keeps the aspect ratio of images and pads smaller ones; its mask has its own name.
"""

from ..modules import ArchitectureSpec, MaskRoutedAttention, TokenAxis
from ._registry import register_architecture, register_composite

SIGLIP_VISION = register_architecture(
    ArchitectureSpec(
        model_types=("siglip_vision_model", "siglip2_vision_model"),
        layers="encoder.layers",
        encoder="encoder",  # not all models use the pooling after it, which has a norm
        mask_source="",
        mask_argument="pixel_attention_mask",
        input_norm="layer_norm1",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="self_attn",
        attention_mixin=MaskRoutedAttention,
    )
)

SIGLIP_TEXT = register_architecture(
    ArchitectureSpec(
        model_types=("siglip_text_model", "siglip2_text_model"),
        layers="encoder.layers",
        input_norm="layer_norm1",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_suffix_tokens=1,  # pooled
        attention="self_attn",
        attention_mixin=MaskRoutedAttention,
    )
)

register_composite("siglip", "vision_model")
register_composite("siglip2", "vision_model")
