"""DeBERTa v2 and v3: post-norm, attention scores from contents and relative positions.

The encoder passes no keyword arguments to its layers, and one table of distances for all examples.
The attention accepts different tables only with examples and heads in one axis. It does not call
attention functions of transformers, so k-to-all is not available.
"""

from typing import Any

from torch import Tensor, nn

from ..modules import ArchitectureSpec, ConditionalLayer, TokenAxis, TokenSelection
from ._registry import register_architecture


class DebertaLayer(ConditionalLayer):
    """Layer with different distances of the selected tokens in each example."""

    def _coda_process(
        self,
        hidden_states: Tensor,
        selected: Tensor,
        gathered: dict[str, Any],
        selection: TokenSelection,
    ) -> Any:  # noqa: ANN401
        distances = gathered.get("relative_pos")
        if distances is not None:
            attention: Any = self.get_submodule("attention.self")
            distances = distances.expand(-1, attention.num_attention_heads, -1, -1)
            gathered["relative_pos"] = distances.flatten(0, 1).unsqueeze(0)
        return super()._coda_process(hidden_states, selected, gathered, selection)


def _prepare(layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]) -> None:
    """Convert the mask of ones and zeros to bool, and add a head axis to the distances."""
    arguments["attention_mask"] = arguments["attention_mask"].bool()
    if arguments.get("relative_pos") is not None:
        arguments["relative_pos"] = arguments["relative_pos"].unsqueeze(1)


DEBERTA_V2 = register_architecture(
    ArchitectureSpec(
        model_types=("deberta-v2",),
        layers="encoder.layer",
        passes_context=False,
        gathered={"attention_mask": TokenAxis.PAIR_MASK, "relative_pos": TokenAxis.PAIR},
        num_prefix_tokens=1,  # CLS
        layer_mixin=DebertaLayer,
        prepare_arguments=_prepare,
    )
)
