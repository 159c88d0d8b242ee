"""A pretrained model with a head for the classes of a data set, and what turns rows into input."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from ..assets import (
    load_packaged_image_processor,
    load_packaged_model,
    load_packaged_tokenizer,
    packaged_model_names,
)
from ..errors import ConfigError, UnsupportedArchitectureError
from .data import Modality
from .preprocessing import Preprocessor

PACKAGED = "packaged:"
_CLASSIFIABLE: dict[str, Modality] = {"minilm": "text", "dinov2": "image"}
_AUTO_MODELS = {
    "text": AutoModelForSequenceClassification,
    "image": AutoModelForImageClassification,
}


@dataclass(frozen=True)
class Classifier:
    """A classification model, the processor that feeds it, and its classes.

    Attributes:
        model: A transformers model for sequence or image classification.
        processor: Its tokenizer or image processor.
        modality: "text" or "image".
        labels: Class names in the order of the logits.
        max_length: Tokens per text; longer texts are cut there. None for images.
    """

    model: PreTrainedModel
    processor: Any
    modality: Modality
    labels: tuple[str, ...]
    max_length: int | None

    @property
    def preprocessor(self) -> Preprocessor:
        """What turns rows into the model's input."""
        return Preprocessor(self.processor, self.modality, self.max_length)

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn columns of rows into columns of model input; see `Preprocessor.encode`."""
        return self.preprocessor.encode(rows)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad encoded examples to the longest and stack them; see `Preprocessor.collate`."""
        return self.preprocessor.collate(examples)


@dataclass(frozen=True)
class Backbone:
    """A pretrained model without a task, and what feeds it.

    Attributes:
        model: A transformers model, with the head that it was pretrained with or none.
        preprocessor: What turns rows into its input.
    """

    model: PreTrainedModel
    preprocessor: Preprocessor


def modality_of(model_name: str) -> Modality:
    """Tell whether a model classifies texts or images.

    Args:
        model_name: A local folder, a hub id, or "packaged:minilm" or "packaged:dinov2".

    Returns:
        The modality.

    Raises:
        ConfigError: If there is no such model.
        UnsupportedArchitectureError: If it classifies neither.
    """
    if model_name.startswith(PACKAGED):
        return _CLASSIFIABLE[_packaged_name(model_name)]
    model_type = _from_pretrained(AutoConfig, model_name).model_type
    if model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return "text"
    if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return "image"
    raise UnsupportedArchitectureError(
        f"{model_name!r} is a {model_type!r} model, for which transformers has no sequence or "
        "image classification head. Choose an encoder such as BERT, RoBERTa, ViT or DINOv2."
    )


def load_classifier(
    model_name: str, labels: Sequence[str], *, max_length: int | None = None
) -> Classifier:
    """Load a pretrained model with a fresh head for these classes.

    Args:
        model_name: A local folder, a hub id, or "packaged:minilm" or "packaged:dinov2".
        labels: Class names, at least two.
        max_length: Cut texts at so many tokens; None or a larger number than the model takes means
            the model's limit.

    Returns:
        The model in evaluation mode, with what feeds it.

    Raises:
        ConfigError: If there is no such model, or a number is out of range.
        UnsupportedArchitectureError: If it classifies neither texts nor images.
    """
    modality = modality_of(model_name)
    if len(labels) < 2:
        raise ConfigError(
            f"a classifier needs at least 2 classes, got {list(labels)}. Check the label column."
        )
    settings: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    settings["ignore_mismatched_sizes"] = True  # a head for other classes is replaced
    model = _load_model(model_name, _AUTO_MODELS[modality], settings)
    preprocessor = _load_preprocessor(model_name, model, modality, max_length)
    return Classifier(
        model, preprocessor.processor, modality, tuple(labels), preprocessor.max_length
    )


def load_backbone(
    model_name: str, *, head: type | None = None, max_length: int | None = None
) -> Backbone:
    """Load a pretrained model to pretrain it further.

    Args:
        model_name: A local folder, a hub id, or "packaged:minilm" or "packaged:dinov2".
        head: An auto class whose head is needed, as the model was pretrained with; None means the
            model without any head.
        max_length: Cut texts at so many tokens; None or a larger number than the model takes means
            the model's limit.

    Returns:
        The model in evaluation mode, with what feeds it.

    Raises:
        ConfigError: If there is no such model or it has not such a head, or a number is out of
            range.
        UnsupportedArchitectureError: If it reads neither texts nor images.
    """
    modality = modality_of(model_name)
    if head is None:
        model = _load_model(model_name, AutoModel, {})
    else:
        model = _load_model_with_head(model_name, head)
    return Backbone(model, _load_preprocessor(model_name, model, modality, max_length))


def _load_model(model_name: str, auto_class: Any, settings: dict[str, Any]) -> PreTrainedModel:  # noqa: ANN401
    if model_name.startswith(PACKAGED):
        settings.pop("ignore_mismatched_sizes", None)
        return load_packaged_model(_packaged_name(model_name), auto_class, **settings)
    model: PreTrainedModel = _from_pretrained(auto_class, model_name, **settings)
    return model.eval()


def _load_model_with_head(model_name: str, auto_class: Any) -> PreTrainedModel:  # noqa: ANN401
    """Load a model with a pretrained head; a new one would not say anything about the states."""
    missing = ["all of the head"]
    if not model_name.startswith(PACKAGED):
        model, info = _from_pretrained(auto_class, model_name, output_loading_info=True)
        missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5])
        raise ConfigError(
            f"{model_name!r} has no pretrained head for {auto_class.__name__} (missing: {shown}). "
            "Take a checkpoint that has it, or --objective distillation, which needs none."
        )
    result: PreTrainedModel = model.eval()
    return result


def _load_preprocessor(
    model_name: str, model: PreTrainedModel, modality: Modality, max_length: int | None
) -> Preprocessor:
    processor: Any
    if not model_name.startswith(PACKAGED):
        auto_class = AutoTokenizer if modality == "text" else AutoImageProcessor
        processor = _from_pretrained(auto_class, model_name)
    elif modality == "text":
        processor = load_packaged_tokenizer(_packaged_name(model_name))
    else:
        processor = load_packaged_image_processor(_packaged_name(model_name))
    limit = _text_limit(model, processor, max_length) if modality == "text" else None
    return Preprocessor(processor, modality, limit)


def _text_limit(model: PreTrainedModel, processor: Any, wanted: int | None) -> int:  # noqa: ANN401
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
            f"max_length {wanted} is more than the model takes; texts are cut at {limit} tokens.",
            stacklevel=4,
        )
    return min(wanted, limit)


def _packaged_name(model_name: str) -> str:
    name = model_name.removeprefix(PACKAGED)
    if name not in _CLASSIFIABLE:
        known = [f"{PACKAGED}{n}" for n in packaged_model_names() if n in _CLASSIFIABLE]
        raise ConfigError(
            f"{model_name!r} is no packaged model of texts or images. Known ones: {known}."
        )
    return name


def _from_pretrained(auto_class: Any, model_name: str, **settings: Any) -> Any:  # noqa: ANN401
    try:
        return auto_class.from_pretrained(model_name, **settings)
    except (OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"cannot load {model_name!r}: it is no folder with a transformers model, and no model "
            f"of that name can be reached on the hub ({first_line}). Give a local path, a hub id, "
            "or one of packaged:minilm, packaged:dinov2."
        ) from error
