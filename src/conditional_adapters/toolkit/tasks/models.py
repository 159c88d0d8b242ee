"""A pretrained model with a head for the classes of a data set, and what turns rows into input."""

from collections.abc import Mapping, Sequence
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
from ._loading import (
    PACKAGED as PACKAGED,
)
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
from .task import Columns, Prediction, Quality, TrainerMetrics

if TYPE_CHECKING:
    import datasets

_PACKAGED_MODALITIES: dict[str, Modality] = {
    "minilm": "text",
    "dinov2": "image",
    "whisper": "audio",
}
_AUTO_MODELS = {
    "text": AutoModelForSequenceClassification,
    "image": AutoModelForImageClassification,
}


@dataclass(frozen=True)
class Classifier:
    """A classification model, the processor that feeds it, and its classes: a `Task`.

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

    @property
    def name(self) -> str:
        """The name of the task."""
        return f"{self.modality}-classification"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return (self.modality,)

    @property
    def chunk_size(self) -> int:
        """Rows that are encoded, and sorted by length, at a time."""
        return 1024

    @property
    def splits_rows(self) -> bool:
        """Whether a row may become several examples."""
        return False

    @property
    def trainer_metrics(self) -> TrainerMetrics | None:
        """What transformers' Trainer measures while it trains."""
        return trainer_metrics

    @property
    def quality(self) -> Quality:
        """Accuracy."""
        return Quality(name="accuracy")

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn columns of rows into columns of model input; see `Preprocessor.encode`."""
        return self.preprocessor.encode(rows)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad encoded examples to the longest and stack them; see `Preprocessor.collate`."""
        return self.preprocessor.collate(examples)

    def infer(self, batch: Mapping[str, Tensor]) -> list[Float[np.ndarray, " classes"]]:
        """Compute the probability of each class."""
        return list(self.model(**batch).logits.float().softmax(-1).cpu().numpy())

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Name the most probable class, and give the probability of each."""
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
        """Give one point for a right row."""
        return tally_labels(predictions, self.labels, rows)


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
    """Tell whether a model classifies texts or images, or writes down speech.

    Args:
        model_name: A local folder, a hub id, or a packaged model.

    Returns:
        The modality of what it reads.

    Raises:
        ConfigError: If there is no such model.
        UnsupportedArchitectureError: If it does none of these.
    """
    if model_name.startswith(PACKAGED):
        known = tuple(_PACKAGED_MODALITIES)
        return _PACKAGED_MODALITIES[packaged_name(model_name, known, "texts, images or speech")]
    model_type = from_pretrained(AutoConfig, model_name).model_type
    if model_type in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        return "audio"
    if model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return "text"
    if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return "image"
    raise UnsupportedArchitectureError(
        f"{model_name!r} is a {model_type!r} model, for which transformers has no sequence or "
        "image classification head, and which does not write down speech. Choose an encoder such "
        "as BERT, RoBERTa, ViT or DINOv2, or Whisper."
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
    if modality == "audio":
        raise UnsupportedArchitectureError(
            f"{model_name!r} writes down speech, and a classifier of texts or images is needed. "
            "Choose an encoder such as BERT, RoBERTa, ViT or DINOv2, or the task "
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
    """Load a pretrained model to pretrain it further.

    Args:
        model_name: A local folder, a hub id, or a packaged model.
        head: An auto class whose head is needed, as the model was pretrained with; None means the
            model without any head, and Whisper with its decoder.
        max_length: Cut texts at so many tokens; None or a larger number than the model takes means
            the model's limit.

    Returns:
        The model in evaluation mode, with what feeds it.

    Raises:
        ConfigError: If there is no such model or it has not such a head, or a number is out of
            range.
        UnsupportedArchitectureError: If it reads neither texts nor images nor English speech.
    """
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
    """Save the dense model alone, when training changed its weights; adapters then belong to that.

    Args:
        backbone: A pretrained model with adapters.
        directory: A folder for the model, and for what feeds it.
    """
    model = backbone.model
    weights = {name: v for name, v in model.state_dict().items() if ".coda_" not in name}
    model.save_pretrained(directory, state_dict=weights)
    backbone.preprocessor.processor.save_pretrained(directory)
    model.config.name_or_path = str(directory)


def _load_model_with_head(model_name: str, auto_class: Any) -> PreTrainedModel:  # noqa: ANN401
    """Load a model with a pretrained head; a new one would not say anything about the states."""
    missing = ["all of the head"]
    if not model_name.startswith(PACKAGED):
        model, info = from_pretrained(auto_class, model_name, output_loading_info=True)
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
    if modality == "text":
        processor = load_tokenizer(model_name)
    elif model_name.startswith(PACKAGED):
        processor = load_packaged_image_processor(model_name.removeprefix(PACKAGED))
    else:
        processor = from_pretrained(AutoImageProcessor, model_name)
    limit = text_limit(model, processor, max_length) if modality == "text" else None
    return Preprocessor(processor, modality, limit)
