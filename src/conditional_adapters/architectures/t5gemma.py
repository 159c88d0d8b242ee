"""T5Gemma: norms before and after each part, rotary positions, and windows in some of the layers.

Each layer gets the mask of its own kind, windows included, so a mask is always gathered by pairs.
Eager attention is the only one that takes windows from the mask.
Give models an attention mask if there is padding: they also guess it from padding ids, but then the
router does not know.
"""

from transformers import PretrainedConfig

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture
from ._windows import counts_windows


def _counts_its_windows(config: PretrainedConfig) -> str | None:
    return counts_windows(config.encoder._attn_implementation, ("eager",))


T5GEMMA = register_architecture(
    ArchitectureSpec(
        model_types=("t5gemma",),
        layers="encoder.layers",
        encoder="encoder",
        decoder_layers="decoder.layers",
        input_norm="pre_self_attn_layernorm",
        gathered={
            "attention_mask": TokenAxis.PAIR_MASK,
            "position_embeddings": TokenAxis.TOKEN,
            "position_ids": TokenAxis.TOKEN,
        },
        attention="self_attn",
        refuses=_counts_its_windows,
    )
)
