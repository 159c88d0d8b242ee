"""Encoders of images, videos and spectrograms seen as images."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import transformers as hf
from torch import Tensor

from ._builder import (
    ENCODER,
    HEADS,
    HIDDEN,
    LAYERS,
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


def beit_like(**settings: object) -> TinyModel:
    """Build BEiT with biases that matter: it starts with zeros."""
    build_with_zeros = builder(
        hf.BeitForImageClassification,
        hf.BeitConfig,
        **(ENCODER | IMAGE | {"layer_scale_init_value": 1.0} | settings),
    )

    def build(attention: str) -> hf.PreTrainedModel:
        model = build_with_zeros(attention)
        for path, parameter in model.named_parameters():
            if path.endswith(("relative_position_bias_table", "position_embeddings")):
                torch.nn.init.normal_(parameter)
        return model

    return TinyModel(build, image_inputs, num_prefix_tokens=1)


BEIT_MODELS = {
    "beit": beit_like(use_relative_position_bias=True),
    "beit_shared_bias": beit_like(use_shared_relative_position_bias=True),
    "beit_absolute": beit_like(use_absolute_position_embeddings=True),
}

DECODER = {"decoder_layers": 2, "decoder_attention_heads": HEADS, "decoder_ffn_dim": 48}
PIX2STRUCT = {
    "hidden_size": HIDDEN,
    "patch_embed_hidden_size": 48,
    "d_kv": 8,
    "d_ff": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "seq_len": 20,
    "initializer_range": 0.02,
}
PIX2STRUCT_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}


def read_image_inputs() -> Inputs:
    """Two images, and what a decoder has written about them so far."""
    return image_inputs() | {"decoder_input_ids": torch.randint(3, VOCABULARY, (2, 4))}


def build_trocr(attention: str) -> hf.PreTrainedModel:
    encoder = hf.ViTConfig(**ENCODER, **IMAGE)
    decoder = hf.TrOCRConfig(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        max_position_embeddings=20,
        cross_attention_hidden_size=HIDDEN,
        is_decoder=True,
        add_cross_attention=True,
        **DECODER,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=0, pad_token_id=1
    )
    config._attn_implementation = {"encoder": attention, "decoder": "eager", "": "eager"}
    return hf.VisionEncoderDecoderModel(config).eval()


def numbered_patch_inputs() -> Inputs:
    """Two images of 11 patches, which begin with their row and column."""
    places = torch.randint(1, 10, (2, 11, 2)).float()
    return {"flattened_patches": torch.cat([places, torch.randn(2, 11, 48)], dim=-1)}


def pad_numbered_patches(inputs: Inputs, side: str) -> Inputs:
    """Make the second image four patches smaller."""
    mask = torch.ones(2, 11)
    mask[1, -4:] = 0
    patches = inputs["flattened_patches"] * mask.unsqueeze(-1)
    return inputs | {"flattened_patches": patches, "attention_mask": mask}


PIX2STRUCT_VISION_MODEL = TinyModel(
    builder(hf.Pix2StructVisionModel, hf.Pix2StructVisionConfig, **PIX2STRUCT),
    numbered_patch_inputs,
    paddings=("none", "right"),
    pad=pad_numbered_patches,
)
READING_MODELS = {
    "vision-encoder-decoder": TinyModel(build_trocr, read_image_inputs, num_prefix_tokens=1),
    "pix2struct_vision_model": PIX2STRUCT_VISION_MODEL,
    "pix2struct": replace(
        PIX2STRUCT_VISION_MODEL,
        build=builder(
            hf.Pix2StructForConditionalGeneration,
            hf.Pix2StructConfig,
            vision_config=PIX2STRUCT,
            text_config=PIX2STRUCT_TEXT,
        ),
        inputs=lambda: (
            numbered_patch_inputs() | {"decoder_input_ids": torch.randint(3, VOCABULARY, (2, 4))}
        ),
        skips={
            "test_gradient_checkpointing_gives_the_same_gradients": (
                "transformers offers it for the parts of this model, not for the whole"
            ),
        },
    ),
}

VISION_MODELS = VIT_MODELS | DINO_MODELS | CLIP_MODELS | BEIT_MODELS | READING_MODELS
