"""Stratified split of a data set into a training and a test part, with copies on one side.

Real corpora contain copies: 98 of the 2,225 BBC articles. A copy in the training part makes its
test example worthless, so copies form one group.

NOTE: not scikit-learn. `StratifiedShuffleSplit` knows no groups, and `StratifiedGroupKFold` has no
exact test size and can leave a class out of a fold. Published results depend on these splits.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigError, DataError
from ._cells import FileCell

if TYPE_CHECKING:
    import datasets


def split_train_test(
    dataset: "datasets.Dataset", *, test_size: int | float, seed: int, same: str | None = None
) -> tuple["datasets.Dataset", "datasets.Dataset"]:
    """Split a data set at random, stratified by the column `label` if there is one.

    Each class gets its rounded share of the test part, and at least one example on either side.
    Copies stay together, so the test part is smaller than asked for if a class consists mostly of
    copies.

    Args:
        dataset: Examples of any task, with or without labels.
        test_size: Size of the test part: examples (int, >= 1) or share of all (float, 0 to 1).
        seed: The same seed gives the same parts.
        same: Examples with equal content in this column are copies; `text` or `image` by default.

    Returns:
        The training and the test part, both shuffled.

    Raises:
        ConfigError: If `test_size` leaves a class without an example on one side.
        DataError: If all examples of a class are copies of one.
    """
    has_labels = "label" in dataset.column_names
    labels = list(dataset["label"]) if has_labels else [0] * len(dataset)
    groups = _equal_rows(dataset, same)
    group_labels = Counter(labels[group[0]] for group in groups)
    for label in Counter(labels):
        if group_labels[label] < 2:
            part = f"class {dataset.features['label'].names[label]!r}" if has_labels else "data set"
            raise DataError(
                f"The {part} has fewer than 2 different rows, so it cannot be on both sides of a"
                " split. Add rows, remove the class, or give a separate test set."
            )
    wanted = _test_rows_per_class(labels, _count_test_rows(test_size, len(labels)))
    parts: tuple[list[int], list[int]] = ([], [])
    for index in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[index]
        label = labels[group[0]]
        is_test = len(group) <= wanted[label]
        parts[is_test].extend(group)
        wanted[label] -= len(group) * is_test
    train, test = (np.array(part, dtype=np.int64) for part in parts)
    return dataset.select(train), dataset.select(test)


def _count_test_rows(test_size: int | float, num_rows: int) -> int:
    """Turn a share into a number of examples."""
    is_share = isinstance(test_size, float)
    if not 0 < test_size < (1 if is_share else num_rows):
        allowed = "between 0 and 1" if is_share else f"at least 1 and less than {num_rows}"
        raise ConfigError(
            f"test_size must be {allowed}, got {test_size}. An integer is a number of rows, a"
            " fraction a share of them."
        )
    return round(test_size * num_rows) if is_share else int(test_size)


def _test_rows_per_class(labels: Sequence[int], num_test: int) -> dict[int, int]:
    """Test examples per class, proportional to its size: at least one, and not all of them."""
    sizes = Counter(labels)
    most = len(labels) - len(sizes)
    if not len(sizes) <= num_test <= most:
        raise ConfigError(
            f"test_size must be between {len(sizes)} and {most} rows, got {num_test}: each of the"
            f" {len(sizes)} classes needs a row on both sides. Change it, or add rows."
        )
    counts = np.array(list(sizes.values()))
    shares = counts * num_test / len(labels)
    wanted = np.ones_like(counts)
    for _ in range(num_test - len(sizes)):
        wanted[np.where(wanted < counts - 1, shares - wanted, -np.inf).argmax()] += 1
    return dict(zip(sizes, wanted.tolist(), strict=True))


def _equal_rows(dataset: "datasets.Dataset", same: str | None) -> list[list[int]]:
    """Group the positions of examples with equal content in a column."""
    import datasets

    column = same or ("text" if "text" in dataset.column_names else "image")
    if column == "image":
        dataset = dataset.cast_column("image", datasets.Image(decode=False))
    groups: dict[bytes, list[int]] = {}
    for position, cell in enumerate(dataset[column]):
        groups.setdefault(_digest(cell), []).append(position)
    return list(groups.values())


def _digest(cell: str | list[str] | FileCell) -> bytes:
    """Digest of a text, a list of words, or the file of an image."""
    if isinstance(cell, str):
        content = cell.encode()
    elif isinstance(cell, list):
        content = "\0".join(cell).encode()
    else:
        content = cell["bytes"] or Path(str(cell["path"])).read_bytes()
    return hashlib.sha256(content).digest()
