"""T5: pre-norm with RMS norms and one relative position bias, made by the first layer.

The bias is an argument of every layer and an output of each. When the first layer is routed, the
bias has to be made for all tokens beforehand; each layer then gets the pairs of its own choice,
and hands on the whole.
"""

from typing import Any

from torch import Tensor, nn

from ..modules import TokenAxis
from ._registry import register_architecture
from ._spec import ArchitectureSpec


def _prepare_position_bias(
    layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]
) -> None:
    """Compute the bias for all tokens if no earlier layer did."""
    attention: Any = layer.get_submodule("layer.0.SelfAttention")
    if arguments.get("position_bias") is None:
        seq = hidden_states.shape[1]
        bias = attention.compute_bias(seq, seq, hidden_states.device)
        # Heads stand innermost in it; each layer gathers keys, and dense ones would copy it.
        arguments["position_bias"] = bias.contiguous()


T5 = register_architecture(
    ArchitectureSpec(
        model_types=("t5", "mt5"),
        layers="encoder.block",
        encoder="encoder",
        decoder_layers="decoder.block",
        input_norm="layer.0.layer_norm",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_bias": TokenAxis.PAIR,
        },
        attention="layer.0.SelfAttention",
        carried_outputs={1: "position_bias"},
        prepare_arguments=_prepare_position_bias,
    )
)
