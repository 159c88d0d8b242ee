"""Checks shared by the routing maps of classifiers and of speech recognition."""

from collections.abc import Iterable
from typing import TypeAlias

from transformers import PreTrainedModel

from ...analysis import RoutingRecord
from ...config import check_reduction_factor
from ...errors import ConfigError
from ...model.attachment import conditional_layers
from .kinds.speech_recognition import SpeechRecogniser
from .models import Classifier
from .task import Task

# Tasks with a routing map.
DrawnTask: TypeAlias = Classifier | SpeechRecogniser


def require_drawn(task: Task) -> DrawnTask:
    """Refuse a task without a routing map."""
    if not isinstance(task, Classifier | SpeechRecogniser):
        raise ConfigError(
            f"routing maps do not support {task.name}. They support classification of texts or "
            "images and speech recognition. Use coda predict, which runs any task on a file."
        )
    return task


def factors_with_a_choice(factors: Iterable[float]) -> list[float]:
    """Check that reduction factors are above 1; return each once, ascending."""
    ordered = sorted({check_reduction_factor(factor) for factor in factors})
    if not ordered or ordered[0] == 1:
        raise ConfigError(
            f"reduction factors must be above 1 to show a choice, got {ordered}. r = 1 processes "
            "every token and is always shown for comparison."
        )
    return ordered


def routed_layers(model: PreTrainedModel, routing: RoutingRecord) -> list[int]:
    """Return the indices of the layers that chose tokens; refuse a model without any."""
    routed = [index for index, decision in enumerate(routing.layers) if decision is not None]
    if not routed:
        raise ConfigError(
            f"all {len(conditional_layers(model))} layers process every token. Set a reduction "
            "factor above 1."
        )
    return routed
