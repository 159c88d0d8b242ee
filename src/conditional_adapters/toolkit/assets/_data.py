"""Packaged data sets as plain values: news articles, posts of newsgroups, Fashion-MNIST pictures.

All are read whole, checked against their pinned hash, and returned in a fixed order. Dividing
into training and test parts, batches and tensors is the business of the caller.
"""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ._catalogue import verified_folder, verified_path

# In the order of the labels 0 to 9.
FASHION_MNIST_CLASSES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, slots=True)
class NewsArticle:
    """One article of the BBC News corpus."""

    # The first line is the headline.
    text: str
    # business, entertainment, politics, sports or tech.
    label: str
    # The file, relative to the corpus: "business/001.txt".
    source: str


@dataclass(frozen=True, slots=True)
class NewsgroupPost:
    """One post of 20 Newsgroups."""

    # Lower-case letters and spaces; digits, punctuation and lines are gone.
    text: str
    # The group: "sci.space".
    label: str


def bbc_news() -> list[NewsArticle]:
    """Read the 2,225 BBC News articles in the order of their files.

    NOTE: the corpus repeats itself: only 2,127 texts are different. Keep equal texts on one side
    when you divide it, or the test part contains training rows.

    Returns:
        One record for each file.

    Raises:
        AssetError: If the package is missing or a file is not the one we know.
    """
    return [
        NewsArticle(_decode(content), source.partition("/")[0], source)
        for source, content in verified_folder("bbc_news", "*/*.txt").items()
    ]


def newsgroups(split: str) -> list[NewsgroupPost]:
    """Read one part of 20 Newsgroups, divided by date as the set always is.

    NOTE: seven posts of the test part are in the training part as well.

    Args:
        split: "train" (11,293 posts) or "test" (7,528).

    Returns:
        One record for each post, in the order of the file.

    Raises:
        ConfigError: If there is no such split.
        AssetError: If the package is missing or its file is not the one we know.
    """
    _check_split("20 Newsgroups", split)
    lines = verified_path(f"20newsgroups/{split}").read_text(encoding="ascii").splitlines()
    # Three lines tell the names, types and roles of the columns; an empty one follows.
    cells = (line.partition("\t") for line in lines[3:] if line)
    return [NewsgroupPost(text.strip(), label) for label, _, text in cells]


def fashion_mnist(
    split: str, directory: Path | str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the pictures and labels of Fashion-MNIST.

    Args:
        split: "train" (60,000 rows) or "test" (10,000).
        directory: The folder of the four files instead of the one of the Debian package.

    Returns:
        Images `[n, 28, 28]` (0 is the background) and labels `[n]`, indices into
        `FASHION_MNIST_CLASSES`.

    Raises:
        ConfigError: If there is no such split.
        AssetError: If a file is missing or not the one we know.
    """
    _check_split("Fashion-MNIST", split)
    images, labels = (
        _read_idx(verified_path(f"fashion_mnist/{split}/{part}", directory))
        for part in ("images", "labels")
    )
    return images, labels


def _check_split(name: str, split: str) -> None:
    if split not in ("train", "test"):
        raise ConfigError(
            f"split must be 'train' or 'test', got {split!r}. {name} has no other; "
            "take validation rows from 'train'."
        )


def _decode(raw: bytes) -> str:
    """Decode an article whose only character beyond ASCII is the pound sign."""
    # NOTE: it is UTF-8 (C2 A3) 1,402 times and latin-1 (A3) once.
    return raw.replace(b"\xc2\xa3", b"\xa3").decode("latin-1").strip()


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a compressed idx file of bytes: 0, 0, 8, rank, the sizes (big-endian), the data."""
    raw = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from(f">{raw[3]}I", raw, offset=4)
    # Copied, because torch warns about arrays that cannot be written to.
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
