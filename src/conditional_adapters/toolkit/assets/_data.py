"""Packaged data sets as plain values: news articles, newsgroup posts, Fashion-MNIST images.

Each is read completely, verified by its pinned hash, and returned in a fixed order. The caller
makes splits, batches and tensors.
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
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True, slots=True)
class NewsArticle:
    """One article of the BBC News corpus."""

    # The first line is the headline.
    text: str
    # business, entertainment, politics, sports or tech.
    label: str
    # Path of the file in the corpus: "business/001.txt".
    source: str


@dataclass(frozen=True, slots=True)
class NewsgroupPost:
    """One post of 20 Newsgroups."""

    # Lower-case letters and spaces only.
    text: str
    # Name of the group: "sci.space".
    label: str


def bbc_news() -> list[NewsArticle]:
    """Read the 2,225 BBC News articles in the order of their files.

    NOTE: only 2,127 texts are different. Keep equal texts in one split, or the test split contains
    training examples.
    """
    return [
        NewsArticle(_decode(content), source.partition("/")[0], source)
        for source, content in verified_folder("bbc_news", "*/*.txt").items()
    ]


def newsgroups(split: str) -> list[NewsgroupPost]:
    """Read one split of 20 Newsgroups, in its usual division by date.

    NOTE: seven posts are in both splits.
    """
    _check_split("20 Newsgroups", split)
    lines = verified_path(f"20newsgroups/{split}").read_text(encoding="ascii").splitlines()
    # A header of three lines, and an empty line.
    cells = (line.partition("\t") for line in lines[3:] if line)
    return [NewsgroupPost(text.strip(), label) for label, _, text in cells]


def fashion_mnist(
    split: str, directory: Path | str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the images and labels of Fashion-MNIST."""
    _check_split("Fashion-MNIST", split)
    images, labels = (
        _read_idx(verified_path(f"fashion_mnist/{split}/{part}", directory))
        for part in ("images", "labels")
    )
    return images, labels


def _check_split(name: str, split: str) -> None:
    if split not in ("train", "test"):
        raise ConfigError(
            f"The split of {name} must be 'train' or 'test', got {split!r}. "
            "Take validation examples from 'train'."
        )


def _decode(raw: bytes) -> str:
    # The pound sign is UTF-8 (C2 A3) 1,402 times and latin-1 (A3) once; the rest is ASCII.
    return raw.replace(b"\xc2\xa3", b"\xa3").decode("latin-1").strip()


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a compressed idx file of uint8: 0, 0, 8, rank, the sizes (big-endian), the data."""
    raw = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from(f">{raw[3]}I", raw, offset=4)
    # Copied, because torch warns about read-only arrays.
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
