"""Table of the downstream tasks; each has a file here.

A new task is one file with an implementation of `Task` and its `TaskKind`, and one line in this
table (docs/tasks.md).
"""

from collections.abc import Mapping
from types import MappingProxyType

from ....errors import ConfigError
from ..models import modality_of
from ..task import TaskKind
from .classification import IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION
from .question_answering import QUESTION_ANSWERING
from .speech_recognition import SPEECH_RECOGNITION
from .summarization import SUMMARIZATION
from .token_classification import TOKEN_CLASSIFICATION

TASKS: Mapping[str, TaskKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            TEXT_CLASSIFICATION,
            IMAGE_CLASSIFICATION,
            SPEECH_RECOGNITION,
            TOKEN_CLASSIFICATION,
            SUMMARIZATION,
            QUESTION_ANSWERING,
        )
    }
)
CLASSIFICATION = (TEXT_CLASSIFICATION.name, IMAGE_CLASSIFICATION.name)


def find_task(name: str) -> TaskKind:
    """Return a task by its name."""
    if name not in TASKS:
        raise ConfigError(f"there is no task {name!r}. Choose one of {', '.join(TASKS)}.")
    return TASKS[name]


def default_task(model_name: str) -> TaskKind:
    """Return the default task of a model, by its input."""
    modality = modality_of(model_name)
    return SPEECH_RECOGNITION if modality == "audio" else TASKS[f"{modality}-classification"]
