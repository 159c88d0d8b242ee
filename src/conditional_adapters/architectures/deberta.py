"""DeBERTa v2 and v3: post-norm, scores from contents and relative positions, no keyword arguments.

The encoder makes one table of distances for all rows; its attention takes one per row only with
rows and heads in one axis. Position scores are computed in place; k-to-all is not available.
"""

from typing import Any

from torch import Tensor, nn

from ..modules import ArchitectureSpec, ConditionalLayer, TokenAxis, TokenSelection
from ._registry import register_architecture


class DebertaLayer(ConditionalLayer):
    """A layer whose chosen tokens stand at other distances in each row."""

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
    """Give the mask of ones and zeros its type, and the distances their head axis."""
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
