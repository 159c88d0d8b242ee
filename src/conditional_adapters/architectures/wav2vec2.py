"""wav2vec 2.0 and its relatives: positions from a convolution before the layers.

The layers are pre-norm in the large models and post-norm in the others. The model converts a mask
over samples to one over frames before it calls the encoder.
"""

from transformers import PretrainedConfig

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture


def input_norm(config: PretrainedConfig) -> str | None:
    """Return the first norm of a pre-norm layer; None for post-norm layers."""
    return "layer_norm" if getattr(config, "do_stable_layer_norm", False) else None


WAV2VEC2 = register_architecture(
    ArchitectureSpec(
        model_types=("wav2vec2", "hubert", "unispeech", "unispeech-sat", "data2vec-audio"),
        layers="encoder.layers",
        encoder="encoder",
        input_norm=input_norm,
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="attention",
    )
)
