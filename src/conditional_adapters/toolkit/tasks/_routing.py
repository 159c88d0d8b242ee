"""What maps of classifiers and of speech recognition share."""

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

# Tasks whose routing can be drawn.
DrawnTask: TypeAlias = Classifier | SpeechRecogniser


def require_drawn(task: Task) -> DrawnTask:
    """Refuse a task whose routing cannot be drawn.

    Args:
        task: Any task.

    Returns:
        The task.

    Raises:
        ConfigError: If it is neither classification of texts or images nor speech recognition.
    """
    if not isinstance(task, Classifier | SpeechRecogniser):
        raise ConfigError(
            f"this is an adapter for {task.name}, and shown are classifiers of texts or images and "
            "speech recognition. Use coda predict, which runs any task on a file."
        )
    return task


def factors_with_a_choice(factors: Iterable[float]) -> list[float]:
    """Check the reduction factors to show, and order them.

    Args:
        factors: Reduction factors above 1.

    Returns:
        Each of them once, ascending.

    Raises:
        ConfigError: If there is none, or one is not above 1.
    """
    ordered = sorted({check_reduction_factor(factor) for factor in factors})
    if not ordered or ordered[0] == 1:
        raise ConfigError(
            f"reduction factors must be above 1 to show a choice, got {ordered}. At r = 1 "
            "every token is processed, which is shown beside them."
        )
    return ordered


def routed_layers(model: PreTrainedModel, routing: RoutingRecord) -> list[int]:
    """List the layers that chose tokens.

    Args:
        model: A conditional model.
        routing: What its layers did.

    Returns:
        Their indices.

    Raises:
        ConfigError: If no layer chose.
    """
    routed = [index for index, decision in enumerate(routing.layers) if decision is not None]
    if not routed:
        raise ConfigError(
            f"all {len(conditional_layers(model))} layers process every token. Set "
            "a reduction factor above 1."
        )
    return routed
