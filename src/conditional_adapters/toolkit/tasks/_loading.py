"""Loading of pretrained models and their processors from folders, the hub or installed packages."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperProcessor,
)

from ...errors import ConfigError, UnsupportedArchitectureError
from ..assets import (
    load_packaged_feature_extractor,
    load_packaged_model,
    load_packaged_tokenizer,
)

PACKAGED = "packaged:"


def from_pretrained(auto_class: Any, model_name: str, **settings: Any) -> Any:  # noqa: ANN401
    """Call `auto_class.from_pretrained`; raise `ConfigError` if it cannot load anything."""
    try:
        return auto_class.from_pretrained(model_name, **settings)
    except (OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"cannot load {model_name!r}: it is not a folder with a transformers model, and no "
            f"model of that name can be reached on the hub ({first_line}). Give a local path, a "
            "hub id, or one of packaged:minilm, packaged:dinov2, packaged:whisper."
        ) from error


def packaged_name(model_name: str, known: Sequence[str], what: str) -> str:
    """Return the name behind "packaged:" if it is known; messages call the models by `what`."""
    name = model_name.removeprefix(PACKAGED)
    if name not in known:
        listed = f"Choose one of {', '.join(PACKAGED + name for name in known)}."
        raise ConfigError(
            f"{model_name!r} is not a packaged model for {what}. "
            f"{listed if known else 'There is none: give a local folder or a hub id.'}"
        )
    return name


def load_model(model_name: str, auto_class: Any, **settings: Any) -> PreTrainedModel:  # noqa: ANN401
    """Load a model in evaluation mode; weights missing for its head are initialised."""
    if model_name.startswith(PACKAGED):
        return load_packaged_model(model_name.removeprefix(PACKAGED), auto_class, **settings)
    # A head for other classes is replaced.
    model: PreTrainedModel = from_pretrained(
        auto_class, model_name, ignore_mismatched_sizes=True, **settings
    )
    return model.eval()


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """Fields of a configuration that name the classes."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def require_head(
    model_name: str, model_types: Collection[str], *, packaged: Sequence[str], task: str
) -> None:
    """Refuse a model whose type, or packaged name, has no head for a task."""
    if model_name.startswith(PACKAGED):
        packaged_name(model_name, packaged, task)
        return
    model_type = from_pretrained(AutoConfig, model_name).model_type
    if model_type not in model_types:
        raise UnsupportedArchitectureError(
            f"{model_name!r} is a {model_type!r} model, for which transformers has no head for "
            f"{task}. Choose another model, or another --task."
        )


def load_tokenizer(model_name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model."""
    if model_name.startswith(PACKAGED):
        return load_packaged_tokenizer(model_name.removeprefix(PACKAGED))
    tokenizer: PreTrainedTokenizerBase = from_pretrained(AutoTokenizer, model_name)
    return tokenizer


def load_fast_tokenizer(model_name: str, *, task: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that maps its tokens to positions in the text."""
    tokenizer = load_tokenizer(model_name)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{task} needs a fast tokenizer, but that of {model_name!r} is a "
            f"{type(tokenizer).__name__}. Add its tokenizer.json to the folder of the model."
        )
    return tokenizer


def load_speech_model(model_name: str) -> tuple[PreTrainedModel, Any]:
    """Load an English Whisper with its decoder, in evaluation mode, and its processor."""
    task = "automatic-speech-recognition"
    require_head(model_name, ("whisper",), packaged=("whisper",), task=task)
    model = load_model(model_name, AutoModelForSpeechSeq2Seq)
    if getattr(model.generation_config, "is_multilingual", False):
        raise UnsupportedArchitectureError(
            f"{model_name!r} is a multilingual Whisper; only English ones are supported. Choose "
            "one whose name ends in .en, such as openai/whisper-tiny.en."
        )
    if model_name.startswith(PACKAGED):
        extractor = load_packaged_feature_extractor(model_name.removeprefix(PACKAGED))
        return model, WhisperProcessor(extractor, load_tokenizer(model_name))
    return model, from_pretrained(AutoProcessor, model_name)


def text_limit(model: PreTrainedModel, processor: Any, wanted: int | None) -> int:  # noqa: ANN401
    """Return the number of tokens at which texts are cut.

    It is at most the number of positions of the model and the limit of the tokenizer. If no length
    is wanted, it is also at most 512.
    """
    if wanted is not None and wanted < 3:
        raise ConfigError(f"max_length must be at least 3 tokens, got {wanted}.")
    limit: int = processor.model_max_length
    for path, table in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            # RoBERTa-like models count positions from the one after the padding index.
            reserved = 0 if table.padding_idx is None else table.padding_idx + 1
            limit = min(limit, table.num_embeddings - reserved)
    if wanted is None:
        return min(limit, 512)
    if wanted > limit:
        warnings.warn(
            f"max_length {wanted} exceeds the model's limit; texts are cut at {limit} tokens.",
            stacklevel=4,
        )
    return min(wanted, limit)
