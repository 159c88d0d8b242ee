"""Encoders of images, videos and spectrograms seen as images."""

from collections.abc import Mapping

import torch
import transformers as hf
from torch import Tensor

from ._builder import (
    ENCODER,
    VOCABULARY,
    Inputs,
    TinyModel,
    builder,
    image_inputs,
    pad_text,
    text_inputs,
)

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


def mae_inputs() -> Inputs:
    """Two images, and the noise that shuffles their patches."""
    return image_inputs() | {"noise": torch.rand(2, 16)}


def video_inputs() -> Inputs:
    """Two videos of 2 x 2 x 2 patches."""
    return {"pixel_values": torch.randn(2, 4, 3, 8, 8)}


def spectrogram_inputs() -> Inputs:
    """Two spectrograms of 4 x 2 patches."""
    return {"input_values": torch.randn(2, 16, 8)}


VIT_MODELS = {
    "vit": vit_like(hf.ViTForImageClassification, hf.ViTConfig),
    "vit_msn": vit_like(hf.ViTMSNForImageClassification, hf.ViTMSNConfig),
    "vit_mae": TinyModel(
        builder(hf.ViTMAEModel, hf.ViTMAEConfig, **ENCODER, **IMAGE, mask_ratio=0.2),
        mae_inputs,
        num_prefix_tokens=1,
    ),
    "vivit": TinyModel(
        builder(
            hf.VivitForVideoClassification,
            hf.VivitConfig,
            **ENCODER,
            image_size=8,
            num_frames=4,
            tubelet_size=(2, 4, 4),
            num_labels=3,
        ),
        video_inputs,
        num_prefix_tokens=1,
    ),
    "ijepa": vit_like(hf.IJepaForImageClassification, hf.IJepaConfig, num_prefix_tokens=0),
    "deit": vit_like(hf.DeiTForImageClassification, hf.DeiTConfig, num_prefix_tokens=2),
    "audio-spectrogram-transformer": TinyModel(
        builder(
            hf.ASTForAudioClassification,
            hf.ASTConfig,
            **ENCODER,
            patch_size=4,
            frequency_stride=4,
            time_stride=4,
            num_mel_bins=8,
            max_length=16,
            num_labels=3,
        ),
        spectrogram_inputs,
        num_prefix_tokens=2,
    ),
}

DINO_MODELS = {
    "dinov2": vit_like(hf.Dinov2ForImageClassification, hf.Dinov2Config),
    "dinov2_with_registers": vit_like(
        hf.Dinov2WithRegistersForImageClassification,
        hf.Dinov2WithRegistersConfig,
        num_prefix_tokens=3,
        num_register_tokens=2,
    ),
    "dinov3_vit": vit_like(
        hf.DINOv3ViTModel, hf.DINOv3ViTConfig, num_prefix_tokens=3, num_register_tokens=2
    ),
    # As many heads as rows of the batch: a mistaken axis of the rotary tables would still fit.
    "dinov3_vit_two_heads": vit_like(hf.DINOv3ViTModel, hf.DINOv3ViTConfig, num_attention_heads=2),
}

END_OF_CAPTION = VOCABULARY - 1
CLIP_TEXT = ENCODER | {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "projection_dim": 16,
    "eos_token_id": END_OF_CAPTION,
}
PATCHES = ENCODER | {"patch_size": 4, "num_patches": 16}


def caption_inputs() -> Inputs:
    """Two captions, each with a token at its end that occurs nowhere else."""
    ids = text_inputs()["input_ids"].clamp(max=END_OF_CAPTION - 1)
    ids[:, -1] = END_OF_CAPTION
    return {"input_ids": ids}


def pad_caption(inputs: Inputs, side: str) -> Inputs:
    """Make the second caption shorter, with the same end."""
    inputs = pad_text(inputs, side)
    inputs["input_ids"][1, inputs["attention_mask"][1].nonzero()[-1]] = END_OF_CAPTION
    return inputs


def patch_inputs() -> Inputs:
    """Two images, cut into 4 x 4 patches each."""
    return {
        "pixel_values": torch.randn(2, 16, 48),
        "pixel_attention_mask": torch.ones(2, 16, dtype=torch.int64),
        "spatial_shapes": torch.full((2, 2), 4),
    }


def pad_patches(inputs: Inputs, side: str) -> Inputs:
    """Make the second image 3 x 4 patches."""
    mask, shapes = inputs["pixel_attention_mask"].clone(), inputs["spatial_shapes"].clone()
    mask[1, 12:] = 0
    shapes[1, 0] = 3
    return inputs | {"pixel_attention_mask": mask, "spatial_shapes": shapes}


def cut_patches(inputs: Inputs, row: int, keep: Tensor) -> Inputs:
    """Take one image, and of it the rows of patches that `keep` covers."""
    count = int(keep.sum())
    return {
        "pixel_values": inputs["pixel_values"][row : row + 1, keep],
        "pixel_attention_mask": torch.ones(1, count, dtype=torch.int64),
        "spatial_shapes": torch.tensor([[count // min(count, 4), min(count, 4)]]),
    }


def valid_patches(model: hf.PreTrainedModel, inputs: Inputs, seq: int) -> Tensor:
    return inputs["pixel_attention_mask"].bool()


def siglip2_like(
    model_class: type,
    config_class: type,
    skips: Mapping[str, str] | None = None,
    **settings: object,
) -> TinyModel:
    """Build a family that takes images of any shape, as patches with a mask."""
    return TinyModel(
        builder(model_class, config_class, **settings),
        patch_inputs,
        paddings=("none", "right"),
        pad=pad_patches,
        cut=cut_patches,
        mask_argument="pixel_attention_mask",
        valid=valid_patches,
        skips={
            "test_compiling_the_whole_graph_gives_the_same_numbers": (
                "the dense model asks for the shape of each image on the host"
            ),
            **(skips or {}),
        },
    )


CLIP_MODELS = {
    "clip_vision_model": vit_like(hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig),
    "chinese_clip_vision_model": vit_like(hf.ChineseCLIPVisionModel, hf.ChineseCLIPVisionConfig),
    "altclip_vision_model": vit_like(hf.AltCLIPVisionModel, hf.AltCLIPVisionConfig),
    "clip": TinyModel(
        builder(
            hf.CLIPForImageClassification,
            hf.CLIPConfig,
            vision_config=ENCODER | IMAGE,
            text_config=CLIP_TEXT,
            num_labels=3,
        ),
        image_inputs,
        num_prefix_tokens=1,
    ),
    "clip_text_model": TinyModel(
        builder(hf.CLIPTextModelWithProjection, hf.CLIPTextConfig, **CLIP_TEXT),
        caption_inputs,
        num_suffix_tokens=1,
        paddings=("none", "right", "left"),
        pad=pad_caption,
        first_position=0,
        is_causal=True,
    ),
    "siglip_vision_model": vit_like(
        hf.SiglipVisionModel, hf.SiglipVisionConfig, num_prefix_tokens=0
    ),
    "siglip": TinyModel(
        builder(
            hf.SiglipForImageClassification,
            hf.SiglipConfig,
            vision_config=ENCODER | IMAGE,
            text_config=CLIP_TEXT,
            num_labels=3,
        ),
        image_inputs,
    ),
    "siglip2_vision_model": siglip2_like(hf.Siglip2VisionModel, hf.Siglip2VisionConfig, **PATCHES),
    "siglip2": siglip2_like(
        hf.Siglip2ForImageClassification,
        hf.Siglip2Config,
        skips={
            "test_rows_of_padding_and_single_tokens_stay_finite": (
                "the mean over no patches is not a number in the dense model"
            ),
        },
        vision_config=PATCHES,
        text_config=CLIP_TEXT,
        num_labels=3,
    ),
    # These pool the last position, padding or not.
    "siglip_text_model": TinyModel(
        builder(hf.SiglipTextModel, hf.SiglipTextConfig, **CLIP_TEXT),
        text_inputs,
        num_suffix_tokens=1,
        paddings=("none", "left"),
        first_position=0,
    ),
    "siglip2_text_model": TinyModel(
        builder(hf.Siglip2TextModel, hf.Siglip2TextConfig, **CLIP_TEXT),
        text_inputs,
        num_suffix_tokens=1,
        paddings=("none", "left"),
        first_position=0,
    ),
}

VISION_MODELS = VIT_MODELS | DINO_MODELS | CLIP_MODELS
