"""Whisper tiny.en from a CTranslate2 binary, converted to a state dict.

CTranslate2 fuses the projections that share an input: the weights of q, k and v are concatenated,
and so are their biases (0 for k, as Whisper's keys have no bias). All other weights are only
renamed. They are stored in half precision and converted to float32.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, WhisperConfig

from ...errors import AssetError
from ._catalogue import ASSETS, verified_path
from ._ctranslate2 import read_variables
from ._pretrained import Pretrained

# Modules of CTranslate2, and the modules of transformers into which they are split.
_MODULES = {
    "embeddings": ("embed_tokens",),
    "position_encodings": ("embed_positions",),
    "conv1": ("conv1",),
    "conv2": ("conv2",),
    "layer_norm": ("layer_norm",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_PARAMETERS = {
    "weight": "weight",
    "encodings": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
}
_NAME = re.compile(
    r"(?P<side>encoder|decoder)/(layer_(?P<layer>\d+)/)?(?P<module>.+)/(?P<leaf>\w+)"
)

# Ids of the English vocabulary.
_END_OF_TEXT, _START_OF_TRANSCRIPT, _NO_TIMESTAMPS = 50256, 50257, 50362


def read_whisper() -> Pretrained:
    """Read the packaged Whisper tiny.en in float32, with its generation settings."""
    config = WhisperConfig(
        vocab_size=51864,
        bos_token_id=_START_OF_TRANSCRIPT,
        decoder_start_token_id=_START_OF_TRANSCRIPT,
    )
    variables = read_variables(verified_path("whisper"), model="WhisperSpec", revision=3)
    return Pretrained(
        config=config,
        state_dict=variables_to_state_dict(variables),
        model_class=AutoModelForSpeechSeq2Seq,
        generation=_generation(verified_path("whisper/generation")),
    )


def variables_to_state_dict(variables: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Rename and split the arrays as in `transformers.WhisperModel`; scalars are dropped."""
    state_dict = {}
    for name, array in variables.items():
        if array.ndim == 0:
            continue
        prefix, modules, leaf = _translate(name)
        chunks = torch.from_numpy(array.astype(np.float32)).chunk(len(modules))
        for module, chunk in zip(modules, chunks, strict=True):
            state_dict[f"{prefix}{module}.{leaf}"] = chunk.contiguous()
    for key in [key for key in state_dict if key.endswith("k_proj.bias")]:
        if state_dict.pop(key).any():
            raise AssetError(
                f"{key} is not 0, but Whisper's keys have no bias. {ASSETS['whisper'].remedy}"
            )
    return state_dict


def _translate(name: str) -> tuple[str, tuple[str, ...], str]:
    """Translate a name to the prefix, the modules and the parameter of transformers."""
    match = _NAME.fullmatch(name)
    if match is None or match["module"] not in _MODULES or match["leaf"] not in _PARAMETERS:
        raise AssetError(
            f"{name!r} is not a variable of Whisper tiny.en in CTranslate2. "
            f"{ASSETS['whisper'].remedy}"
        )
    layer = f"layers.{match['layer']}." if match["layer"] else ""
    return f"{match['side']}.{layer}", _MODULES[match["module"]], _PARAMETERS[match["leaf"]]


def _generation(path: Path) -> dict[str, object]:
    """Fields of the generation config."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    return {
        "alignment_heads": settings["alignment_heads"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "suppress_tokens": settings["suppress_ids"],
        "bos_token_id": _START_OF_TRANSCRIPT,
        "decoder_start_token_id": _START_OF_TRANSCRIPT,
        "eos_token_id": _END_OF_TEXT,
        "pad_token_id": _END_OF_TEXT,
        "no_timestamps_token_id": _NO_TIMESTAMPS,
        "is_multilingual": False,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "return_timestamps": False,
    }
