"""The towers of CLIP: pre-norm, positions in the embeddings.

The text tower is causal. A token attends to earlier ones only, as in the dense model, but the
selection depends on the whole caption. The model pools the last token, so padded captions need
their attention mask: without one the last token would be padding.

A complete CLIP model gets its adapter in the vision tower. For the text tower, attach to
`model.text_model`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture, register_composite

CLIP_VISION = register_architecture(
    ArchitectureSpec(
        model_types=("clip_vision_model", "chinese_clip_vision_model", "altclip_vision_model"),
        layers="encoder.layers",
        encoder="encoder",  # not all models use the norm after it
        input_norm="layer_norm1",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="self_attn",
    )
)


def _prepare_causal_mask(
    layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]
) -> None:
    """Create the causal mask where the dense model relies on an implicit one."""
    if arguments.get("attention_mask") is None:
        seq = hidden_states.shape[1]
        pairs = torch.ones(seq, seq, dtype=torch.bool, device=hidden_states.device)
        arguments["attention_mask"] = pairs.tril()[None, None]


CLIP_TEXT = register_architecture(
    ArchitectureSpec(
        model_types=("clip_text_model",),
        layers="encoder.layers",
        input_norm="layer_norm1",
        gathered={"attention_mask": TokenAxis.PAIR_MASK},
        num_suffix_tokens=1,  # the end of the caption, which is pooled
        attention="self_attn",
        prepare_arguments=_prepare_causal_mask,
    )
)

register_composite("clip", "vision_model")
