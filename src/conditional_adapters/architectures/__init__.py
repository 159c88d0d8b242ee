"""One small record per family of models.

A record has the paths of the layers and the meaning of their arguments. The mechanism is in
`modules`.
"""

from ..modules import ArchitectureSpec as ArchitectureSpec
from . import (  # noqa: F401
    _refused,
    albert,
    bart,
    beit,
    bert,
    clip,
    conformer,
    deberta,
    dinov3,
    encoder_decoder,
    modernbert,
    mpnet,
    pix2struct,
    roberta_prelayernorm,
    rotary,
    siglip,
    t5,
    t5gemma,
    umt5,
    vit,
    wav2vec2,
    wavlm,
    whisper,
)
from ._registry import architecture_of as architecture_of
from ._registry import composite_path as composite_path
from ._registry import refused_architectures as refused_architectures
from ._registry import register_architecture as register_architecture
from ._registry import supported_architectures as supported_architectures
