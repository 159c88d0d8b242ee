"""Names: one small record per family of models, and nothing else.

The mechanism is in `modules`; a record says where a family keeps its layers and what the arguments
of a layer mean.
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
    deit,
    dinov2,
    dinov3,
    distilbert,
    encoder_decoder,
    eurobert,
    mbart,
    modernbert,
    mpnet,
    nomic_bert,
    pix2struct,
    rembert,
    roberta_prelayernorm,
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
