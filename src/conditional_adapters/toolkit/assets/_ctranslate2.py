"""Reader of CTranslate2 binaries: a flat list of named arrays.

Little-endian, in this order: the version (4 bytes), the name of the model, its revision (4), the
number of variables (4); for each its name, rank (1), sizes (4 each), type (1), number of bytes (4)
and the bytes; the number of aliases (4), and for each its name and its target. A name is its
length including a final zero byte (2), and the bytes. Redundant fields must agree, and no bytes may
follow the end.

Source: `python/ctranslate2/specs/model_spec.py` of CTranslate2 4, binary version 6.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import AssetError

_VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def read_variables(path: Path, *, model: str, revision: int) -> dict[str, NDArray[np.generic]]:
    """Read all arrays as read-only views of one buffer; aliases are checked but not returned."""
    reader = _Reader(path)
    header = (reader.unsigned(4), reader.text(), reader.unsigned(4))
    if header != (_VERSION, model, revision):
        raise reader.damaged(f"version, model and revision are {header}")
    variables = dict(_read_variable(reader) for _ in range(reader.unsigned(4)))
    for _ in range(reader.unsigned(4)):
        alias, target = reader.text(), reader.text()
        if target not in variables:
            raise reader.damaged(f"the alias {alias} points to {target}, which does not exist")
    if reader.remaining:
        raise reader.damaged(f"{reader.remaining} bytes follow the end")
    return variables


def _read_variable(reader: "_Reader") -> tuple[str, NDArray[np.generic]]:
    name = reader.text()
    shape = tuple(reader.unsigned(4) for _ in range(reader.unsigned(1)))
    type_id, size = reader.unsigned(1), reader.unsigned(4)
    if type_id not in _DTYPES:
        raise reader.damaged(f"{name} has the type {type_id}; known are {sorted(_DTYPES)}")
    dtype = np.dtype(_DTYPES[type_id])
    if math.prod(shape) * dtype.itemsize != size:
        raise reader.damaged(f"{name} has the shape {shape} of {dtype} but {size} bytes")
    return name, np.frombuffer(reader.take(size), dtype=dtype).reshape(shape)


class _Reader:
    """A position in a file that cannot pass the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = memoryview(path.read_bytes())
        self._position = 0

    @property
    def remaining(self) -> int:
        """Number of bytes that are not read yet."""
        return len(self._buffer) - self._position

    def take(self, size: int) -> memoryview:
        """Read bytes without copying them."""
        if size > self.remaining:
            raise self.damaged(f"{size} bytes are announced but only {self.remaining} are left")
        self._position += size
        return self._buffer[self._position - size : self._position]

    def unsigned(self, size: int) -> int:
        """Read an unsigned integer of this many bytes."""
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        """Read a name."""
        raw = bytes(self.take(self.unsigned(2)))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise self.damaged(f"a name is {raw[:40]!r}")
        return raw[:-1].decode("ascii")

    def damaged(self, finding: str) -> AssetError:
        """Build the error for a damaged or different file."""
        return AssetError(
            f"{self._path} is not the CTranslate2 binary (version {_VERSION}) that is expected: "
            f"{finding} (before byte {self._position}). Reinstall its package."
        )
