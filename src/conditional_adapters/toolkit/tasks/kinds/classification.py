"""Classification of texts and of images; the task itself is `models.Classifier`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ....errors import UnsupportedArchitectureError
from .._data_spec import DataSpec
from ..data import Modality, classification_columns, load_rows
from ..models import Classifier, load_classifier, modality_of
from ..task import TaskKind

if TYPE_CHECKING:
    import datasets


def _load_rows(
    modality: Modality, spec: DataSpec, *, labels: Sequence[str] | None, with_targets: bool
) -> "datasets.Dataset":
    return load_rows(spec, modality=modality, labels=labels, require_labels=with_targets)


def _labels_of(rows: "datasets.Dataset") -> tuple[str, ...]:
    return tuple(rows.features["label"].names)


def _load(
    modality: Modality, model_name: str, labels: Sequence[str], *, max_length: int | None = None
) -> Classifier:
    found = modality_of(model_name)
    if found not in (modality, "audio"):  # load_classifier refuses audio
        raise UnsupportedArchitectureError(
            f"{model_name!r} is a model for {found}s, which does not support {modality}-"
            f"classification. Choose a model for {modality}s, or --task {found}-classification."
        )
    return load_classifier(model_name, labels, max_length=max_length)


def _kind(modality: Modality) -> TaskKind:
    return TaskKind(
        name=f"{modality}-classification",
        columns=partial(classification_columns, modality),
        load_rows=partial(_load_rows, modality),
        load=partial(_load, modality),
        split_column=modality,
        labels_of=_labels_of,
    )


TEXT_CLASSIFICATION = _kind("text")
IMAGE_CLASSIFICATION = _kind("image")
