"""ALBERT: BERT with one layer that is applied several times.

The layer gets one adapter and one router, which selects tokens in each application anew.
"""

from transformers import PretrainedConfig

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture


def _has_several_groups(config: PretrainedConfig) -> str | None:
    groups = config.num_hidden_groups
    return None if groups == 1 else f"it has {groups} groups of layers, only one is supported"


ALBERT = register_architecture(
    ArchitectureSpec(
        model_types=("albert",),
        layers="encoder.albert_layer_groups.0.albert_layers",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention",
        refuses=_has_several_groups,
    )
)
