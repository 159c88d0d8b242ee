"""UMT5: as T5, but every layer has its own relative position bias.

The attention module computes it from lengths, as if the selected tokens were neighbours. Our
attention function replaces it with the bias of their distances in the whole sequence, from a lookup
table of `2 seq - 1` values.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..modules import ArchitectureSpec, RoutedAttention, RoutedTokens, TokenAxis
from ..ops import expand_relative_bias, gather_relative_bias
from ._registry import register_architecture


class UMT5Attention(RoutedAttention):
    """Attention with distances in the whole sequence, not among the selected tokens."""

    coda_for_any_keys = True

    def compute_bias(self, query_length: int, key_length: int, **_: object) -> Tensor:
        """Return the bias of all pairs of tokens."""
        assert query_length == key_length, "an encoder attends to the tokens it is given"
        return expand_relative_bias(self._coda_bias_of_distances(query_length))

    def coda_position_bias(self, query: Tensor, routed: RoutedTokens) -> Tensor:
        """Return the bias of the selected queries and their keys."""
        distances = self._coda_bias_of_distances(routed.seq)
        return gather_relative_bias(distances, routed.indices, all_keys=routed.states is not None)

    def _coda_bias_of_distances(self, seq: int) -> Float[Tensor, "1 heads distances"]:
        attention: Any = self
        table: nn.Embedding = attention.relative_attention_bias
        distances = torch.arange(1 - seq, seq, device=table.weight.device)
        bias: Tensor = table(attention._relative_position_bucket(distances))
        return bias.t().unsqueeze(0)


UMT5 = register_architecture(
    ArchitectureSpec(
        model_types=("umt5",),
        layers="encoder.block",
        encoder="encoder",
        decoder_layers="decoder.block",
        input_norm="layer.0.layer_norm",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        attention="layer.0.SelfAttention",
        attention_mixin=UMT5Attention,
    )
)
