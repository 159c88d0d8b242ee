"""Packaged models by name, with their tokenizers and processors.

Three pretrained models, one per modality, load without a network: MiniLM-L6 (text, BERT),
DINOv2-S/14 (vision) and Whisper tiny.en (speech, encoder and decoder).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    BaseImageProcessor,
    BertConfig,
    BertTokenizer,
    FeatureExtractionMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
    WhisperTokenizer,
)

from ...errors import AssetError
from ._catalogue import verified_path
from ._dinov2 import read_dinov2
from ._pretrained import Pretrained, build, configure
from ._whisper import read_whisper

_PREFIX = "packaged:"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def packaged_model_names() -> tuple[str, ...]:
    """Names of the packaged models."""
    return tuple(_LOADERS["model"])


def load_packaged_model(
    name: str,
    model_class: type | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    **model_kwargs: object,
) -> PreTrainedModel:
    """Load a pretrained model from an installed package.

    Args:
        name: "minilm", "dinov2" or "whisper".
        model_class: Auto class or model class of transformers, by default `BertModel`,
            `Dinov2Model` or `WhisperForConditionalGeneration`. A head that the package does not
            contain is newly initialised.
        dtype: Of the parameters, a `torch.dtype` or its name such as "bfloat16".
        **model_kwargs: `attn_implementation` and fields of the configuration, for example
            `num_labels=5`, `id2label` and `label2id`.

    Returns:
        The model in evaluation mode, with "packaged:<name>" as its `name_or_path`.

    Raises:
        AssetError: If the name is unknown, the package is missing, its file has another hash, or
            the weights do not fit the backbone of `model_class`.
        ConfigError: If a keyword is not a field of the configuration.

    Example:
        >>> from transformers import AutoModelForSequenceClassification
        >>> model = load_packaged_model(
        ...     "minilm", AutoModelForSequenceClassification, num_labels=5
        ... )  # doctest: +SKIP
    """
    pretrained: Pretrained = _load("model", name)
    config = configure(pretrained, f"{_PREFIX}{name}", dtype, model_kwargs)
    return build(model_class or pretrained.model_class, config, pretrained)


def load_packaged_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a packaged model."""
    tokenizer: PreTrainedTokenizerBase = _load("tokenizer", name)
    return tokenizer


def load_packaged_image_processor(name: str) -> BaseImageProcessor:
    """Build the image processor of a packaged model; it needs Pillow, not torchvision."""
    processor: BaseImageProcessor = _load("image processor", name)
    return processor


def load_packaged_feature_extractor(name: str) -> FeatureExtractionMixin:
    """Build the feature extractor of a packaged model."""
    extractor: FeatureExtractionMixin = _load("feature extractor", name)
    return extractor


def _read_minilm() -> Pretrained:
    state_dict = load_file(verified_path("minilm"))
    del state_dict["embeddings.position_ids"]  # a buffer that transformers computes
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return Pretrained(config=config, state_dict=state_dict)


def _minilm_tokenizer() -> PreTrainedTokenizerBase:
    return BertTokenizer(
        tokenizer_file=str(verified_path("minilm/tokenizer")),
        model_max_length=512,
        name_or_path=f"{_PREFIX}minilm",
    )


def _whisper_tokenizer() -> PreTrainedTokenizerBase:
    return WhisperTokenizer(
        tokenizer_file=str(verified_path("whisper/tokenizer")),
        pad_token="<|endoftext|>",
        model_max_length=448,
        name_or_path=f"{_PREFIX}whisper",
    )


def _dinov2_image_processor() -> BaseImageProcessor:
    # The class that transformers chooses for DINOv2 where torchvision is missing.
    from transformers import BitImageProcessorPil

    return BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=_IMAGENET_MEAN,
        image_std=_IMAGENET_STD,
    )


_LOADERS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "model": {"minilm": _read_minilm, "dinov2": read_dinov2, "whisper": read_whisper},
    "tokenizer": {"minilm": _minilm_tokenizer, "whisper": _whisper_tokenizer},
    "image processor": {"dinov2": _dinov2_image_processor},
    "feature extractor": {"whisper": WhisperFeatureExtractor},
}


def _load(kind: str, name: str) -> Any:  # noqa: ANN401
    loaders = _LOADERS[kind]
    if name not in loaders:
        raise AssetError(
            f"There is no packaged {kind} {name!r}. Known names: {', '.join(loaders)}. "
            "Use one of them."
        )
    return loaders[name]()
