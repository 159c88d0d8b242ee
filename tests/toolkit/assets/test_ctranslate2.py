"""The reader of CTranslate2 binaries, on small files written here from the specification."""

import struct

import numpy as np
import pytest

from conditional_adapters.errors import AssetError
from conditional_adapters.toolkit.assets._ctranslate2 import read_variables


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def variable(name: str, array: np.ndarray, type_id: int, *, size: int | None = None) -> bytes:
    data = array.tobytes()
    sizes = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return text(name) + sizes + struct.pack("<BI", type_id, size or len(data)) + data


ARRAYS = {
    "a/weight": (np.arange(6, dtype="<f2").reshape(2, 3), 4),
    "a/bias": (np.array([-1.5, 2.0], dtype="<f4"), 0),
    "a/heads": (np.array(6, dtype="<i2"), 2),
    "a/flag": (np.array(-1, dtype="<i1"), 1),
    "a/long": (np.array([1 << 20], dtype="<i4"), 3),
}
HEADER = struct.pack("<I", 6) + text("Spec") + struct.pack("<I", 3)
VARIABLES = struct.pack("<I", len(ARRAYS)) + b"".join(variable(k, *v) for k, v in ARRAYS.items())
ALIASES = struct.pack("<I", 1) + text("b/weight") + text("a/weight")
BINARY = HEADER + VARIABLES + ALIASES


@pytest.fixture
def read(tmp_path):
    def read_bytes(content: bytes):
        path = tmp_path / "model.bin"
        path.write_bytes(content)
        return read_variables(path, model="Spec", revision=3)

    return read_bytes


def test_every_type_and_rank_is_read_back(read):
    variables = read(BINARY)
    assert list(variables) == list(ARRAYS)
    for name, (array, _) in ARRAYS.items():
        assert variables[name].dtype == array.dtype
        np.testing.assert_array_equal(variables[name], array)


@pytest.mark.parametrize("length", range(0, len(BINARY), 7))
def test_a_truncated_file_is_refused_wherever_it_ends(read, length):
    with pytest.raises(AssetError, match=r"model\.bin is not the CTranslate2 binary"):
        read(BINARY[:length])


ONE = HEADER + struct.pack("<I", 1)
NO_ALIAS = struct.pack("<I", 0)
PAIR = np.zeros(2, dtype="<f4")


@pytest.mark.parametrize(
    "content, finding",
    [
        (struct.pack("<I", 5) + BINARY[4:], r"version, model and revision are \(5, 'Spec', 3\)"),
        (struct.pack("<I", 6) + text("Other") + HEADER[-4:], r"\(6, 'Other', 3\)"),
        (BINARY + b"xy", "2 bytes follow the end"),
        (ONE + variable("w", PAIR, 9) + NO_ALIAS, "w has the type 9; known are"),
        (ONE + variable("w", PAIR, 0, size=9) + NO_ALIAS, r"shape \(2,\) of float32 but 9 bytes"),
        (HEADER + VARIABLES + NO_ALIAS[:3] + b"\x7f", "bytes are announced but only"),
        (
            HEADER + VARIABLES + struct.pack("<I", 1) + text("b") + text("c"),
            "the alias b points to c",
        ),
        (struct.pack("<IH", 6, 3) + b"abc", "a name is b'abc'"),
        (struct.pack("<IH", 6, 0), "a name is b''"),
    ],
    ids=["version", "model", "tail", "type", "size", "count", "alias", "zero", "empty"],
)
def test_damage_is_named(read, content, finding):
    with pytest.raises(AssetError, match=finding):
        read(content)
