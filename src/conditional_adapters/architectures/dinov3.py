"""DINOv3: as DINOv2, with rotary positions for the patches; CLS and registers have none.

The base model is the encoder itself. It gets no mask. Its rotary tables have no batch axis and no
entries for the first tokens.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture


def _prepare_tables(layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]) -> None:
    """Add identity rotations for the first tokens, and axes for batch and heads."""
    cos, sin = arguments["position_embeddings"]
    num_prefix = hidden_states.shape[1] - cos.shape[0]
    arguments["position_embeddings"] = (
        pad(cos, (0, 0, num_prefix, 0), value=1.0)[None, None],
        pad(sin, (0, 0, num_prefix, 0))[None, None],
    )


DINOV3 = register_architecture(
    ArchitectureSpec(
        model_types=("dinov3_vit",),
        layers="layer",
        input_norm="norm1",
        gathered={
            "attention_mask": TokenAxis.PADDING_MASK,
            "position_embeddings": TokenAxis.HEAD_TOKEN,
        },
        num_prefix_tokens=1,  # CLS
        prefix_fields=("num_register_tokens",),
        attention="attention",
        prepare_arguments=_prepare_tables,
    )
)
