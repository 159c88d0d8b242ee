"""ModernBERT: pre-norm with rotary positions; most layers attend to a window around each token.

The window is part of the mask, which is gathered by pairs. One projection computes queries, keys
and values.
"""

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from ..modules import ArchitectureSpec, RoutedAttention, RoutedTokens, TokenAxis
from ..modules.attention import IMPLEMENTATIONS
from ._registry import register_architecture
from ._windows import counts_windows


class FusedAttention(RoutedAttention):
    """Attention with one projection for queries, keys and values."""

    Wqkv: Any

    def coda_keys_and_values(self, routed: RoutedTokens, head_dim: int) -> tuple[Tensor, Tensor]:
        """Project the states of all tokens, and rotate the keys."""
        projected = self.Wqkv(routed.states).unflatten(-1, (3, -1, head_dim))
        _, key, value = (part.transpose(1, 2) for part in projected.unbind(2))
        return self.coda_rotate(key, routed), value


def _counts_its_windows(config: PretrainedConfig) -> str | None:
    return counts_windows(config._attn_implementation, IMPLEMENTATIONS)


MODERNBERT = register_architecture(
    ArchitectureSpec(
        model_types=("modernbert",),
        layers="layers",
        input_norm="attn_norm",
        gathered={
            "attention_mask": TokenAxis.PAIR_MASK,
            "position_embeddings": TokenAxis.TOKEN,
        },
        num_prefix_tokens=1,  # CLS
        attention="attn",
        attention_mixin=FusedAttention,
        refuses=_counts_its_windows,
    )
)
