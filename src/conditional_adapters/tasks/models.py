"""A pretrained model with a head for the classes of a data set, and what turns rows into input."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
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

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn columns of rows into columns of model input.

        Args:
            rows: Columns `text` or `image`, and `label` if there are labels.

        Returns:
            The columns the model takes, unpadded, with `labels` if there are labels.
        """
        if self.modality == "text":
            encoded = self.processor(
                list(rows["text"]), truncation=True, max_length=self.max_length
            )
            columns = {key: list(values) for key, values in encoded.items()}
        else:
            pixels = self.processor(list(rows["image"]), return_tensors="pt")["pixel_values"]
            columns = {"pixel_values": list(pixels)}
        if "label" in rows:
            columns["labels"] = list(rows["label"])
        return columns

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad encoded examples to the longest and stack them.

        Args:
            examples: Encoded rows, at least one.

        Returns:
            A batch of tensors.
        """
        if self.modality == "text":
            return dict(self.processor.pad(list(examples), return_tensors="pt"))
        batch = {"pixel_values": torch.stack([e["pixel_values"] for e in examples])}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([e["labels"] for e in examples])
        return batch


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
    auto_model = _AUTO_MODELS[modality]
    if model_name.startswith(PACKAGED):
        name = _packaged_name(model_name)
        model = load_packaged_model(name, auto_model, **settings)
        processor: Any = (
            load_packaged_tokenizer(name)
            if modality == "text"
            else load_packaged_image_processor(name)
        )
    else:
        settings["ignore_mismatched_sizes"] = True  # a head for other classes is replaced
        model = _from_pretrained(auto_model, model_name, **settings)
        processor = _from_pretrained(
            AutoTokenizer if modality == "text" else AutoImageProcessor, model_name
        )
    limit = _text_limit(model, processor, max_length) if modality == "text" else None
    return Classifier(model.eval(), processor, modality, tuple(labels), limit)


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
            stacklevel=3,
        )
    return min(wanted, limit)


def _packaged_name(model_name: str) -> str:
    name = model_name.removeprefix(PACKAGED)
    if name not in _CLASSIFIABLE:
        known = [f"{PACKAGED}{n}" for n in packaged_model_names() if n in _CLASSIFIABLE]
        raise ConfigError(
            f"{model_name!r} is no packaged classification backbone. Known ones: {known}."
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
