"""The rows of an experiment, and batches of them to time and to count on."""

import heapq
import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from conditional_adapters.toolkit.tasks._audio import AudioCell, decode_audio
from conditional_adapters.toolkit.tasks._collate import examples_of
from conditional_adapters.toolkit.tasks.data import DataSpec
from conditional_adapters.toolkit.tasks.inference import length_of
from conditional_adapters.toolkit.tasks.task import Task, TaskKind
from conditional_adapters.toolkit.tasks.task_data import load_task_rows, split_rows

from ._config import Data

if TYPE_CHECKING:
    import datasets

_SPLIT_SEED = 0
_JOINED_RATE = 8_000  # samples per second


@cache
def load_data(data: Data, kind: TaskKind) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Training rows and evaluated rows.

    Args:
        data: Which rows.
        kind: What is done with them.

    Returns:
        Both parts. No row of one has the same content as a row of the other.

    Raises:
        SystemExit: If no rows are named for evaluation.
    """
    train = load_task_rows(kind, DataSpec(source=data.source, split=data.split))
    test = None
    if data.test_split is not None:
        spec = DataSpec(source=data.source, split=data.test_split)
        test = load_task_rows(kind, spec, labels=kind.labels_of(train) or None)
        if data.test_rows is not None and data.test_rows < len(test):
            test = _part(kind, test, data.test_rows)[1]
    elif data.test_rows is not None:
        train, test = _part(kind, train, data.test_rows)
    if data.evaluate_on == "validation":
        train, test = _part(kind, train, data.validation_rows)
    if test is None:
        raise SystemExit("`data` needs test_rows or test_split. Add one to config.yaml.")
    if data.train_rows is not None and data.train_rows < len(train):
        train = _part(kind, train, data.train_rows)[1]
    return train, test


def unlabelled_rows(data: Data, kind: TaskKind) -> "datasets.Dataset":
    """Inputs of the training rows.

    Args:
        data: Which rows. Without a test part, all rows of the source, which needs no targets then.
        kind: The task that the model is for.

    Returns:
        The rows with the columns of the input alone.
    """
    inputs = [column.role for column in kind.columns(None) if not column.is_target]
    if data.test_split is not None or data.test_rows is not None:
        rows = load_data(data, kind)[0]
    else:
        spec = DataSpec(source=data.source, split=data.split)
        rows = load_task_rows(kind, spec, with_targets=False)
        if data.train_rows is not None and data.train_rows < len(rows):
            rows = rows.shuffle(seed=_SPLIT_SEED).select(range(data.train_rows))
    return rows.select_columns(inputs)


def join_recordings(rows: "datasets.Dataset", count: int, *, seed: int) -> "datasets.Dataset":
    """Put recordings after each other, so that windows are filled to all degrees.

    Args:
        rows: With recordings.
        count: How many to make.
        seed: Of the choice, the lengths and the pauses.

    Returns:
        Recordings of 2 to 29 seconds, lengths evenly spread, with pauses of 0.2 to 1 second.
    """
    import soundfile

    rng = np.random.default_rng(seed)
    cells: list[AudioCell] = []
    for _ in range(count):
        wanted = int(rng.uniform(2, 29) * _JOINED_RATE)
        parts: list[np.ndarray] = []
        while (left := wanted - sum(map(len, parts))) > 0:
            cell = rows[int(rng.integers(len(rows)))]["audio"]
            pause = np.zeros(int(rng.uniform(0.2, 1) * _JOINED_RATE), dtype=np.float32)
            parts += [decode_audio(cell, _JOINED_RATE)[:left], pause]
        samples = np.concatenate(parts)[:wanted]
        file = io.BytesIO()
        soundfile.write(file, samples, _JOINED_RATE, format="WAV", subtype="PCM_16")
        cells.append(AudioCell(bytes=file.getvalue(), path=None))
    from datasets import Dataset

    return Dataset.from_list([{"audio": cell} for cell in cells], features=rows.features)


def timing_batch(task: Task, rows: "datasets.Dataset", size: int) -> dict[str, Tensor]:
    """Make a batch of the longest texts, or of the first images or recordings.

    Args:
        task: Whose input it is.
        rows: With targets.
        size: Rows of the batch.

    Returns:
        Arguments of the model, with `labels`.
    """
    if task.inputs != ("text",):
        rows = rows.select(range(size))
    longest: list[dict[str, Any]] = []
    for start in range(0, len(rows), task.chunk_size):
        examples = examples_of(task.encode(rows[start : start + task.chunk_size]))
        longest = heapq.nlargest(size, [*longest, *examples], key=length_of)
    return task.collate(longest)


def _part(
    kind: TaskKind, rows: "datasets.Dataset", size: int
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    return split_rows(kind, rows, test_size=size, seed=_SPLIT_SEED)
