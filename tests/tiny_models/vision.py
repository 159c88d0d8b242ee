"""Encoders of images."""

import transformers as hf

from ._builder import ENCODER, TinyModel, builder, image_inputs

IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 3}


def vit_like(
    model_class: type, config_class: type, num_prefix_tokens: int = 1, **settings: object
) -> TinyModel:
    """Build a family with ViT's names of settings."""
    return TinyModel(
        builder(model_class, config_class, **(ENCODER | IMAGE | settings)),
        image_inputs,
        num_prefix_tokens=num_prefix_tokens,
    )


VISION_MODELS = {
    "vit": vit_like(hf.ViTForImageClassification, hf.ViTConfig),
    "dinov2": vit_like(hf.Dinov2ForImageClassification, hf.Dinov2Config),
    "dinov2_with_registers": vit_like(
        hf.Dinov2WithRegistersForImageClassification,
        hf.Dinov2WithRegistersConfig,
        num_prefix_tokens=3,
        num_register_tokens=2,
    ),
}
