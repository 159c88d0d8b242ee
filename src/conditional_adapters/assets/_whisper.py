"""Whisper tiny.en from a package: a CTranslate2 binary becomes a state dict.

The file is a flat list of named arrays, so reading it needs `struct` and no third-party runtime.
CTranslate2 fuses the projections that share an input: rows of q, k and v lie one below the other,
and the biases too (Whisper's keys have no bias, so that part is 0).

Source: `python/ctranslate2/specs/model_spec.py` of CTranslate2 4, binary version 6.
"""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, WhisperConfig

from ..errors import AssetError
from ._catalogue import ASSETS, verified_path
from ._pretrained import Pretrained

_BINARY_VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}

# A module of CTranslate2, and the modules of transformers among which its rows are divided.
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

# Token ids of the English vocabulary that no file of the package tells apart.
_END_OF_TEXT, _START_OF_TRANSCRIPT, _NO_TIMESTAMPS = 50256, 50257, 50362


def read_whisper() -> Pretrained:
    """Read the packaged Whisper tiny.en.

    Returns:
        Configuration, weights (float32) and the settings of generation.

    Raises:
        AssetError: If the package is missing or a file is not the one we know.
    """
    config = WhisperConfig(
        vocab_size=51864,
        bos_token_id=_START_OF_TRANSCRIPT,
        decoder_start_token_id=_START_OF_TRANSCRIPT,
    )
    weights = verified_path("whisper")
    return Pretrained(
        config=config,
        state_dict=variables_to_state_dict(read_variables(weights)),
        model_class=AutoModelForSpeechSeq2Seq,
        generation=_generation(verified_path("whisper/generation")),
    )


def read_variables(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the named arrays of a CTranslate2 binary; an alias is left out.

    Args:
        path: The `model.bin`.

    Returns:
        Arrays by name, in the file's types. They are read-only views of one buffer.

    Raises:
        AssetError: If the file is not a complete CTranslate2 binary of version 6.
    """
    try:
        return _read_variables(_Cursor(path.read_bytes()))
    except _DamagedError as error:
        raise AssetError(
            f"{path} is not a complete CTranslate2 binary of version {_BINARY_VERSION}: {error}. "
            f"{ASSETS['whisper'].remedy}"
        ) from error


def variables_to_state_dict(variables: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Rename and divide the arrays as `transformers.WhisperModel` has them.

    Args:
        variables: Arrays by CTranslate2's names. Scalars are settings and are left out.

    Returns:
        A tensor for each parameter of the model, float32.

    Raises:
        AssetError: If a name is unknown, or a key projection has a bias.
    """
    state_dict = {}
    for name, array in variables.items():
        if array.ndim == 0:
            continue
        prefix, modules, leaf = _translate(name)
        pieces = torch.from_numpy(array.astype(np.float32)).chunk(len(modules))
        for module, piece in zip(modules, pieces, strict=True):
            state_dict[f"{prefix}{module}.{leaf}"] = piece.contiguous()
    return {key: tensor for key, tensor in state_dict.items() if not _is_key_bias(key, tensor)}


def _translate(name: str) -> tuple[str, tuple[str, ...], str]:
    """Divide a name into the prefix, the modules and the parameter of transformers."""
    match = _NAME.fullmatch(name)
    if match is None or match["module"] not in _MODULES or match["leaf"] not in _PARAMETERS:
        raise AssetError(
            f"{name!r} is not a variable of Whisper tiny.en as CTranslate2 writes it. "
            f"{ASSETS['whisper'].remedy}"
        )
    layer = f"layers.{match['layer']}." if match["layer"] else ""
    return f"{match['side']}.{layer}", _MODULES[match["module"]], _PARAMETERS[match["leaf"]]


def _is_key_bias(key: str, tensor: Tensor) -> bool:
    """Tell whether this is the zero bias of a key projection, which transformers leaves out."""
    if not key.endswith("k_proj.bias"):
        return False
    if tensor.any():
        raise AssetError(
            f"{key} is not 0, but Whisper's keys have no bias. {ASSETS['whisper'].remedy}"
        )
    return True


def _generation(path: Path) -> dict[str, object]:
    """Read the settings that `generate` needs beside the weights."""
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


class _DamagedError(Exception):
    """What is wrong with the binary; the caller adds which file it is."""


class _Cursor:
    """A position in a buffer that refuses to read past the end."""

    def __init__(self, buffer: bytes) -> None:
        self._buffer = memoryview(buffer)
        self._position = 0

    @property
    def remaining(self) -> int:
        return len(self._buffer) - self._position

    def take(self, size: int) -> memoryview:
        if size > self.remaining:
            raise _DamagedError(f"{size} bytes expected at {self._position}, {self.remaining} left")
        self._position += size
        return self._buffer[self._position - size : self._position]

    def unsigned(self, code: str) -> int:
        """Read a little-endian integer: code B has 1 byte, H 2 and I 4."""
        value: int
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(code)))
        return value

    def text(self) -> str:
        """Read a string: its length with the closing zero byte, then the bytes."""
        raw = bytes(self.take(self.unsigned("H")))
        if raw[-1:] != b"\0" or not raw[:-1].isascii():
            raise _DamagedError(f"a name expected before byte {self._position}, got {raw[:40]!r}")
        return raw[:-1].decode("ascii")


def _read_variables(cursor: _Cursor) -> dict[str, NDArray[np.generic]]:
    """Read the header, all variables, and the aliases to the last byte."""
    if (version := cursor.unsigned("I")) != _BINARY_VERSION:
        raise _DamagedError(f"it says version {version}")
    if (spec := (cursor.text(), cursor.unsigned("I"))) != ("WhisperSpec", 3):
        raise _DamagedError(f"it has the model and revision {spec}, not WhisperSpec 3")
    variables = dict(_read_variable(cursor) for _ in range(cursor.unsigned("I")))
    for _ in range(cursor.unsigned("I")):
        alias, target = cursor.text(), cursor.text()
        if target not in variables:
            raise _DamagedError(f"the alias {alias} points to {target}, which is not there")
    if cursor.remaining:
        raise _DamagedError(f"{cursor.remaining} bytes follow the end")
    return variables


def _read_variable(cursor: _Cursor) -> tuple[str, NDArray[np.generic]]:
    """Read one name and array; the size is stored twice, so it can be checked."""
    name = cursor.text()
    shape = tuple(cursor.unsigned("I") for _ in range(cursor.unsigned("B")))
    type_id, size = cursor.unsigned("B"), cursor.unsigned("I")
    if type_id not in _DTYPES:
        raise _DamagedError(f"{name} has the type id {type_id}, known are {sorted(_DTYPES)}")
    dtype = np.dtype(_DTYPES[type_id])
    if math.prod(shape) * dtype.itemsize != size:
        raise _DamagedError(f"{name} has the shape {shape} of {dtype} but {size} bytes")
    return name, np.frombuffer(cursor.take(size), dtype=dtype).reshape(shape)
