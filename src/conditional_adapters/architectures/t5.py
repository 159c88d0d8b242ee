"""T5: pre-norm with RMS norms and one relative position bias, computed by the first layer.

The bias is an argument and an output of every layer. It is computed before the first layer, by
distance. Each layer gets the bias of its selected pairs and returns the distances.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..modules import ArchitectureSpec, TokenAxis
from ._position_bias import bias_for_layers
from ._registry import register_architecture


def _prepare_position_bias(
    layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]
) -> None:
    """Compute the bias in the first layer, even if that is dense.

    T5's own bias has the heads as its innermost axis, so every following layer would copy it.
    """
    attention: Any = layer.get_submodule("layer.0.SelfAttention")
    if arguments.get("position_bias") is None and not attention.is_decoder:
        compute = partial(attention.compute_bias, device=hidden_states.device)
        arguments["position_bias"] = bias_for_layers(compute, hidden_states.shape[1])


T5 = register_architecture(
    ArchitectureSpec(
        model_types=("t5", "mt5"),
        layers="encoder.block",
        encoder="encoder",
        decoder_layers="decoder.block",
        input_norm="layer.0.layer_norm",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_bias": TokenAxis.RELATIVE_BIAS,
        },
        attention="layer.0.SelfAttention",
        carried_outputs={1: "position_bias"},
        prepare_arguments=_prepare_position_bias,
        prepares_dense_layers=True,
    )
)
