"""Small random models of every supported architecture, with inputs to match.

One more architecture is one more entry in one of the dictionaries.
"""

from ._builder import HEADS, HIDDEN, LAYERS, TinyModel, pad_text
from .conformer import CONFORMER_MODELS
from .sequence_to_sequence import SEQUENCE_TO_SEQUENCE_MODELS
from .speech import SPEECH_MODELS
from .text import TEXT_MODELS
from .vision import VISION_MODELS
from .wav2vec2 import WAV2VEC2_MODELS

TINY_MODELS: dict[str, TinyModel] = (
    TEXT_MODELS
    | SEQUENCE_TO_SEQUENCE_MODELS
    | VISION_MODELS
    | SPEECH_MODELS
    | WAV2VEC2_MODELS
    | CONFORMER_MODELS
)

__all__ = ["HEADS", "HIDDEN", "LAYERS", "TINY_MODELS", "TinyModel", "pad_text"]
