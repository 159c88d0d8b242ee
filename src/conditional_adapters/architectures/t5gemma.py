"""T5Gemma: norms before and after each sublayer, rotary positions, and windows in some layers.

The mask of a layer includes its windows, so it is gathered by pairs. Only eager attention reads
windows from the mask.

Padded inputs need an attention mask: the model would also infer it from the padding ids, but the
router would not.
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
