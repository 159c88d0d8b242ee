"""The kind of model that an adapter belongs to: type and class of the transformers model."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..model.structure import transformers_model


def model_kind(model: nn.Module) -> dict[str, str]:
    """Return `model_type` and `model_class` of a model, as in the files of an adapter."""
    outer = transformers_model(model)
    return {"model_type": outer.config.model_type, "model_class": type(outer).__name__}


def check_model_kind(
    model: nn.Module,
    described: Mapping[str, Any],
    source: str,
    *,
    names: tuple[str, ...] = ("model_type", "model_class"),
) -> None:
    """Refuse a model of another kind than the one that an adapter was trained with."""
    for name, value in model_kind(model).items():
        expected = described.get(name)
        if name in names and expected not in (None, value):
            raise CheckpointError(
                f"{source} an adapter for a {expected} model (base model "
                f"{described.get('base_model_name_or_path')}), but this is a {value}. Load the "
                "kind of model that the adapter was trained with."
            )
