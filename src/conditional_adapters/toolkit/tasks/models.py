"""Pretrained models with their processors: classifiers, and backbones without a task."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from ...errors import ConfigError, UnsupportedArchitectureError
from ..assets import load_packaged_image_processor
from ._loading import PACKAGED as PACKAGED
from ._loading import (
    from_pretrained,
    label_settings,
    load_model,
    load_speech_model,
    load_tokenizer,
    packaged_name,
    text_limit,
)
from .data import Modality
from .metrics import score_labels, tally_labels, trainer_metrics
from .preprocessing import Preprocessor
from .task import Columns, Prediction, Quality, TaskDefaults

if TYPE_CHECKING:
    import datasets

_PACKAGED_MODALITIES: dict[str, Modality] = {
    "minilm": "text",
    "dinov2": "image",
    "whisper": "audio",
}
_MODEL_TYPES: dict[Modality, Collection[str]] = {
    "audio": MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "text": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "image": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}
_AUTO_MODELS = {
    "text": AutoModelForSequenceClassification,
    "image": AutoModelForImageClassification,
}


@dataclass(frozen=True)
class Classifier(TaskDefaults):
    """Classification of texts or images: a `Task`."""

    model: PreTrainedModel
    processor: Any  # its tokenizer or image processor
    modality: Modality  # "text" or "image"
    labels: tuple[str, ...]
    max_length: int | None

    quality = Quality(name="accuracy")
    trainer_metrics = staticmethod(trainer_metrics)

    @property
    def preprocessor(self) -> Preprocessor:
        """Conversion of rows to the model's input."""
        return Preprocessor(self.processor, self.modality, self.max_length)

    @property
    def name(self) -> str:
        """The name of the task."""
        return f"{self.modality}-classification"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return (self.modality,)

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Convert columns of rows to columns of model input; see `Preprocessor.encode`."""
        return self.preprocessor.encode(rows)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack encoded examples."""
        return self.preprocessor.collate(examples)

    def infer(self, batch: Mapping[str, Tensor]) -> list[Float[np.ndarray, " classes"]]:
        """Compute the probability of each class."""
        return list(self.model(**batch).logits.float().softmax(-1).cpu().numpy())

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Return the most probable class and the probability of each."""
        return [
            {
                "label": self.labels[int(scores.argmax())],
                "scores": {
                    label: round(float(score), 6)
                    for label, score in zip(self.labels, scores, strict=True)
                },
            }
            for scores in outputs
        ]

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute accuracy and macro-averaged F1."""
        return score_labels(predictions, self.labels, rows)

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Return 1 for each right example, else 0, over 1."""
        return tally_labels(predictions, self.labels, rows)


@dataclass(frozen=True)
class Backbone:
    """A pretrained model without a task, with the head of its pretraining or none."""

    model: PreTrainedModel
    preprocessor: Preprocessor


def modality_of(model_name: str) -> Modality:
    """Return the modality of a model: a classifier of texts or images, or a speech recogniser."""
    if model_name.startswith(PACKAGED):
        known = tuple(_PACKAGED_MODALITIES)
        return _PACKAGED_MODALITIES[packaged_name(model_name, known, "texts, images or speech")]
    model_type = from_pretrained(AutoConfig, model_name).model_type
    for modality, model_types in _MODEL_TYPES.items():
        if model_type in model_types:
            return modality
    raise UnsupportedArchitectureError(
        f"{model_name!r} is a {model_type!r} model, for which transformers has no head for "
        "sequence classification, image classification or speech recognition. Choose an encoder "
        "such as BERT, RoBERTa, ViT or DINOv2, or Whisper."
    )


def load_classifier(
    model_name: str, labels: Sequence[str], *, max_length: int | None = None
) -> Classifier:
    """Load a pretrained model with a fresh head for these classes.

    Args:
        model_name: A local folder, a hub id, or "packaged:minilm" or "packaged:dinov2".
        labels: Class names, at least two.
        max_length: Cut texts at this number of tokens, at most the model's limit. None means the
            limit.

    Returns:
        The classifier, its model in evaluation mode.

    Raises:
        ConfigError: If there is no such model, or a number is out of range.
        UnsupportedArchitectureError: If it classifies neither texts nor images.
    """
    modality = modality_of(model_name)
    if modality == "audio":
        raise UnsupportedArchitectureError(
            f"{model_name!r} is a speech recogniser, not a classifier of texts or images. Choose "
            "an encoder such as BERT, RoBERTa, ViT or DINOv2, or the task "
            "automatic-speech-recognition."
        )
    if len(labels) < 2:
        raise ConfigError(
            f"a classifier needs at least 2 classes, got {list(labels)}. Check the label column."
        )
    model = load_model(model_name, _AUTO_MODELS[modality], **label_settings(labels))
    preprocessor = _load_preprocessor(model_name, model, modality, max_length)
    return Classifier(
        model, preprocessor.processor, modality, tuple(labels), preprocessor.max_length
    )


def load_backbone(
    model_name: str, *, head: type | None = None, max_length: int | None = None
) -> Backbone:
    """Load a pretrained model for further pretraining."""
    modality = modality_of(model_name)
    if modality == "audio":
        model, processor = load_speech_model(model_name)
        return Backbone(model, Preprocessor(processor, modality, None))
    if head is None:
        model = load_model(model_name, AutoModel)
    else:
        model = _load_model_with_head(model_name, head)
    return Backbone(model, _load_preprocessor(model_name, model, modality, max_length))


def save_backbone(backbone: Backbone, directory: Path) -> None:
    """Save a dense model whose weights were trained; it becomes the base model of its adapters.

    Args:
        backbone: A pretrained model with adapters, which are not saved.
        directory: The folder for the model and its processor.
    """
    model = backbone.model
    weights = {name: v for name, v in model.state_dict().items() if ".coda_" not in name}
    model.save_pretrained(directory, state_dict=weights)
    backbone.preprocessor.processor.save_pretrained(directory)
    model.config.name_or_path = str(directory)


def _load_model_with_head(model_name: str, auto_class: Any) -> PreTrainedModel:  # noqa: ANN401
    """Load a model with a pretrained head; refuse one whose head would be initialised."""
    missing = ["all of the head"]
    if not model_name.startswith(PACKAGED):
        model, info = from_pretrained(auto_class, model_name, output_loading_info=True)
        missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5])
        raise ConfigError(
            f"{model_name!r} has no pretrained head for {auto_class.__name__} (missing: {shown}). "
            "Choose a checkpoint that has it, or --objective distillation, which needs none."
        )
    result: PreTrainedModel = model.eval()
    return result


def _load_preprocessor(
    model_name: str, model: PreTrainedModel, modality: Modality, max_length: int | None
) -> Preprocessor:
    processor: Any
    if modality == "text":
        processor = load_tokenizer(model_name)
    elif model_name.startswith(PACKAGED):
        processor = load_packaged_image_processor(model_name.removeprefix(PACKAGED))
    else:
        processor = from_pretrained(AutoImageProcessor, model_name)
    limit = text_limit(model, processor, max_length) if modality == "text" else None
    return Preprocessor(processor, modality, limit)
