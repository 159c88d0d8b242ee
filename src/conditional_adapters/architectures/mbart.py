"""mBART and relatives, NLLB among them ("m2m_100"): as BART, with norms in front."""

from dataclasses import replace

from ._registry import register_architecture
from .bart import BART

MBART = register_architecture(
    replace(
        BART,
        model_types=("blenderbot", "m2m_100", "mbart", "pegasus"),
        input_norm="self_attn_layer_norm",
    )
)
