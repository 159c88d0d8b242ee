"""UMT5: as T5, but every layer has a relative position bias of its own.

The attention module makes it from lengths, as if its tokens were neighbours. Our attention function
puts the bias of their true distances in its place.
"""

from typing import Any

import torch
from torch import Tensor

from ..modules import RoutedAttention, RoutedTokens, TokenAxis
from ._registry import register_architecture
from ._spec import ArchitectureSpec


class UMT5Attention(RoutedAttention):
    """Counts distances in the whole sequence, not among the chosen tokens."""

    coda_for_any_keys = True

    def coda_position_bias(self, query: Tensor, routed: RoutedTokens) -> Tensor:
        """Return the bias of each chosen query and each of its keys."""
        attention: Any = self
        queries = keys = routed.indices
        if routed.states is not None:
            keys = torch.arange(routed.seq, device=queries.device).unsqueeze(0)
        distances = keys.unsqueeze(1) - queries.unsqueeze(2)
        buckets = attention._relative_position_bucket(distances)
        bias: Tensor = attention.relative_attention_bias(buckets)
        return bias.permute(0, 3, 1, 2)


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
