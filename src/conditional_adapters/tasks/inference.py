"""Run a classifier over a whole data set."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from .models import Classifier

if TYPE_CHECKING:
    import datasets

_CHUNK = 1024  # rows that are encoded and sorted by length at a time


def predict_scores(
    classifier: Classifier,
    rows: "datasets.Dataset",
    *,
    batch_size: int = 32,
    show_progress: bool = False,
) -> Float[np.ndarray, "rows classes"]:
    """Compute the class probabilities of each row.

    Rows of similar length share a batch, so that little is spent on padding.

    Args:
        classifier: The model; put into evaluation mode by its loader.
        rows: As `load_rows` returns, with or without labels.
        batch_size: Rows per forward pass, >= 1.
        show_progress: Show a progress bar.

    Returns:
        Probabilities in the order of the rows.
    """
    scores = np.zeros((len(rows), len(classifier.labels)), dtype=np.float32)
    device = classifier.model.device
    with tqdm(total=len(rows), unit="row", disable=not show_progress) as bar:
        for indices, batch in _batches(classifier, rows, batch_size):
            with torch.inference_mode():
                inputs = {key: value.to(device) for key, value in batch.items()}
                logits = classifier.model(**inputs).logits
            scores[indices] = logits.float().softmax(-1).cpu().numpy()
            bar.update(len(indices))
    return scores


def _batches(
    classifier: Classifier, rows: "datasets.Dataset", batch_size: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield batches of rows of similar length, with their places in the data set."""
    column = "text" if classifier.modality == "text" else "image"
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        encoded = classifier.encode({column: chunk[column]})
        examples: list[dict[str, Any]] = [
            dict(zip(encoded, values, strict=True))
            for values in zip(*encoded.values(), strict=True)
        ]
        order = list(range(len(examples)))
        if classifier.modality == "text":
            order.sort(key=lambda index: len(examples[index]["input_ids"]))
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = classifier.collate([examples[index] for index in chosen])
            yield [start + index for index in chosen], batch
