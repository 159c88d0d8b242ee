"""Small random models of every supported architecture, with inputs to match.

One more architecture is one more entry in one of the dictionaries.
"""

from ._builder import HIDDEN, LAYERS, TinyModel, pad_text
from .sequence_to_sequence import SEQUENCE_TO_SEQUENCE_MODELS
from .speech import SPEECH_MODELS
from .text import TEXT_MODELS
from .vision import VISION_MODELS

TINY_MODELS: dict[str, TinyModel] = (
    TEXT_MODELS | SEQUENCE_TO_SEQUENCE_MODELS | VISION_MODELS | SPEECH_MODELS
)

__all__ = ["HIDDEN", "LAYERS", "TINY_MODELS", "TinyModel", "pad_text"]
