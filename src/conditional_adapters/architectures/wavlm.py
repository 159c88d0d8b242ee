"""WavLM: as wav2vec 2.0, with a relative position bias that the first layer computes, as in T5.

The gate on the bias depends on the query alone. Attention does not call attention functions of
transformers, so k-to-all is not available.
"""

from typing import Any

from torch import Tensor, nn

from ..modules import ArchitectureSpec, TokenAxis
from ..ops import prefers_distances
from ._position_bias import bias_for_layers
from ._registry import register_architecture
from .wav2vec2 import input_norm


def _prepare_position_bias(
    layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]
) -> None:
    """Compute the bias for all tokens in the first layer that needs it."""
    attention: Any = layer.attention
    if arguments.get("position_bias") is None:
        batch, seq, _ = hidden_states.shape
        bias = bias_for_layers(attention.compute_bias, seq)
        arguments["position_bias"] = bias if prefers_distances() else bias.repeat(batch, 1, 1)


WAVLM = register_architecture(
    ArchitectureSpec(
        model_types=("wavlm",),
        layers="encoder.layers",
        encoder="encoder",
        input_norm=input_norm,
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_bias": TokenAxis.FLAT_RELATIVE_BIAS,
        },
        carried_outputs={1: "position_bias"},
        prepare_arguments=_prepare_position_bias,
    )
)
