"""Packaged models by name: the model, and what turns text, pictures or sound into its inputs.

Three pre-trained models, one for each modality, load without a network: MiniLM-L6 (text, BERT),
DINOv2-S/14 (vision) and Whisper tiny.en (speech, encoder and decoder).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

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

_T = TypeVar("_T")

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def packaged_model_names() -> tuple[str, ...]:
    """Return the names that `load_packaged_model` accepts."""
    return tuple(_READERS)


def load_packaged_model(
    name: str,
    model_class: type | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    **model_kwargs: object,
) -> PreTrainedModel:
    """Load a pre-trained model from an installed package.

    Args:
        name: "minilm", "dinov2" or "whisper".
        model_class: An auto class or a model class of transformers; without it `BertModel`,
            `Dinov2Model` or `WhisperForConditionalGeneration`. A head that the package does not
            contain is newly initialised.
        dtype: Of the parameters: a type of torch or its name, for example "bfloat16".
        **model_kwargs: `attn_implementation` and fields of the configuration, for example
            `num_labels=5`, `id2label` and `label2id`.

    Returns:
        The model in evaluation mode, with "packaged:<name>" as its `name_or_path`.

    Raises:
        AssetError: If the name is unknown, the package is missing, its file is not the one we
            know, or the weights do not fit the backbone of `model_class`.
        ConfigError: If a keyword is not a field of the configuration.

    Example:
        >>> from transformers import AutoModelForSequenceClassification
        >>> model = load_packaged_model(
        ...     "minilm", AutoModelForSequenceClassification, num_labels=5
        ... )  # doctest: +SKIP
    """
    pretrained = _named(_READERS, name, "model")()
    config = configure(pretrained, _name_or_path(name), dtype, model_kwargs)
    return build(model_class or pretrained.model_class, config, pretrained)


def load_packaged_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a packaged model.

    Args:
        name: "minilm" or "whisper".

    Returns:
        The tokenizer.

    Raises:
        AssetError: If the name is unknown, the package is missing, or its file is not the one we
            know.
    """
    return _named(_TOKENIZERS, name, "tokenizer")()


def load_packaged_image_processor(name: str) -> BaseImageProcessor:
    """Build the image processor of a packaged model; it needs Pillow but not torchvision.

    Args:
        name: "dinov2".

    Returns:
        The processor: shortest edge to 256, centre crop of 224 x 224, ImageNet mean and deviation.

    Raises:
        AssetError: If the name is unknown.
    """
    return _named(_IMAGE_PROCESSORS, name, "image processor")()


def load_packaged_feature_extractor(name: str) -> FeatureExtractionMixin:
    """Build the feature extractor of a packaged model; it needs no file.

    Args:
        name: "whisper".

    Returns:
        The extractor: 80 log-mel bins of 30 s of sound at 16 kHz.

    Raises:
        AssetError: If the name is unknown.
    """
    return _named(_FEATURE_EXTRACTORS, name, "feature extractor")()


def _read_minilm() -> Pretrained:
    state_dict = load_file(verified_path("minilm"))
    # 0, 1, 2, ...: a buffer that transformers computes.
    del state_dict["embeddings.position_ids"]
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return Pretrained(config=config, state_dict=state_dict)


def _minilm_tokenizer() -> PreTrainedTokenizerBase:
    return BertTokenizer(
        tokenizer_file=str(verified_path("minilm/tokenizer")),
        model_max_length=512,
        name_or_path=_name_or_path("minilm"),
    )


def _whisper_tokenizer() -> PreTrainedTokenizerBase:
    return WhisperTokenizer(
        tokenizer_file=str(verified_path("whisper/tokenizer")),
        pad_token="<|endoftext|>",
        model_max_length=448,
        name_or_path=_name_or_path("whisper"),
    )


def _dinov2_image_processor() -> BaseImageProcessor:
    # Without torchvision, this is the class that transformers chooses for DINOv2.
    from transformers import BitImageProcessorPil

    return BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=_IMAGENET_MEAN,
        image_std=_IMAGENET_STD,
    )


def _name_or_path(name: str) -> str:
    return f"packaged:{name}"


def _named(table: Mapping[str, _T], name: str, kind: str) -> _T:
    """Look a name up, or say which names there are."""
    if name not in table:
        raise AssetError(
            f"There is no packaged {kind} called {name!r}. There is {', '.join(table)}. "
            "Use one of these names."
        )
    return table[name]


_READERS: Mapping[str, Callable[[], Pretrained]] = MappingProxyType(
    {"minilm": _read_minilm, "dinov2": read_dinov2, "whisper": read_whisper}
)
_TOKENIZERS: Mapping[str, Callable[[], PreTrainedTokenizerBase]] = MappingProxyType(
    {"minilm": _minilm_tokenizer, "whisper": _whisper_tokenizer}
)
_IMAGE_PROCESSORS: Mapping[str, Callable[[], BaseImageProcessor]] = MappingProxyType(
    {"dinov2": _dinov2_image_processor}
)
_FEATURE_EXTRACTORS: Mapping[str, Callable[[], FeatureExtractionMixin]] = MappingProxyType(
    {"whisper": WhisperFeatureExtractor}
)
