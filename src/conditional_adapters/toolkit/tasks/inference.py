"""Inference on a whole data set."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from ._collate import examples_of
from .models import Classifier
from .task import Columns, Prediction, Task

if TYPE_CHECKING:
    import datasets

# Fixed cost of a forward pass, in tokens: overhead of Python and of thin matrix products, for a
# small encoder on a CPU at r = 8 (our choice).
_COST_OF_BATCH = 128


def predict(
    task: Task, rows: "datasets.Dataset", *, batch_size: int = 32, show_progress: bool = False
) -> list[Prediction]:
    """Predict every row; rows of similar length share a batch, see `batches_by_length`.

    Args:
        task: A task, its model in evaluation mode.
        rows: From `load_task_rows`, with or without targets.
        batch_size: Number of the longest examples in a batch, >= 1.
        show_progress: Show a progress bar.

    Returns:
        One prediction per row, in order.
    """
    predictions: list[Prediction] = []
    for chunk, examples, outputs in _chunks(task, rows, batch_size, show_progress):
        predictions += task.decode(chunk, examples, outputs)
    return predictions


def predict_scores(
    classifier: Classifier,
    rows: "datasets.Dataset",
    *,
    batch_size: int = 32,
    show_progress: bool = False,
) -> Float[np.ndarray, "examples classes"]:
    """Compute the class probabilities of each row.

    Args:
        classifier: A classifier, its model in evaluation mode.
        rows: From `load_rows`, with or without labels.
        batch_size: Number of the longest examples in a batch, >= 1.
        show_progress: Show a progress bar.

    Returns:
        Probabilities, in the order of the rows.
    """
    scores = [np.zeros((0, len(classifier.labels)), dtype=np.float32)]
    for _, _, outputs in _chunks(classifier, rows, batch_size, show_progress):
        scores.append(np.stack(outputs))
    return np.concatenate(scores)


def _chunks(
    task: Task, rows: "datasets.Dataset", batch_size: int, show_progress: bool
) -> Iterator[tuple[Columns, Columns, list[Any]]]:
    """Yield rows in chunks, their examples, and the output for each example."""
    inputs = rows.select_columns(list(task.inputs))
    with tqdm(total=len(rows), unit="example", disable=not show_progress) as bar:
        for start in range(0, len(rows), task.chunk_size):
            chunk = inputs[start : start + task.chunk_size]
            examples = task.encode(chunk)
            num_examples = len(next(iter(examples.values())))
            bar.total += num_examples - len(chunk[task.inputs[0]])  # a row may become several
            outputs: list[Any] = [None] * num_examples
            for indices, batch in batches_by_length(task, examples, batch_size):
                with torch.inference_mode():
                    results = task.infer(batch)
                for index, result in zip(indices, results, strict=True):
                    outputs[index] = result
                bar.update(len(indices))
            yield chunk, examples, outputs


def batches_by_length(
    task: Task, examples: Columns, batch_size: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield batches of examples of similar length, with their indices.

    A batch has at most as many tokens, with padding, as `batch_size` of the longest examples.
    Within this limit the batches minimise the cost of padding and of the number of batches.
    """
    unpacked = examples_of(examples)
    order = sorted(range(len(unpacked)), key=lambda index: length_of(unpacked[index]))
    # Images and windows of speech have a fixed size. Their order still matters: the longest speech
    # of a batch decides how many tokens it processes.
    sizes = [len(example.get("input_ids", (0,))) for example in unpacked]
    limit = batch_size * max(sizes, default=1)
    for first, end in pairwise(_boundaries([sizes[index] for index in order], limit)):
        indices = order[first:end]
        batch = task.collate([unpacked[index] for index in indices])
        yield indices, {key: value.to(task.model.device) for key, value in batch.items()}


def _boundaries(sizes: Sequence[int], limit: int) -> list[int]:
    """Divide ascending sizes into runs of minimal cost, by dynamic programming.

    The cost of a run is its number of tokens with padding, plus `_COST_OF_BATCH`.
    """
    best = [(0, len(sizes))] * (len(sizes) + 1)  # the cost from here on, and where the run ends
    for first in range(len(sizes) - 1, -1, -1):
        costs = []
        for end in range(first + 1, len(sizes) + 1):
            num_tokens = (end - first) * sizes[end - 1]
            if num_tokens > limit and end > first + 1:
                break
            costs.append((best[end][0] + num_tokens + _COST_OF_BATCH, -end))
        cost, end = min(costs)  # among equals the longest run
        best[first] = cost, -end
    boundaries = [0]
    while boundaries[-1] < len(sizes):
        boundaries.append(best[boundaries[-1]][1])
    return boundaries


def length_of(example: Mapping[str, Any]) -> int:
    """Number of tokens of a text or of frames of speech; 0 for images, which have a fixed size."""
    if "input_ids" in example:
        return len(example["input_ids"])
    mask = example.get("attention_mask")
    return 0 if mask is None else int(mask.sum())
