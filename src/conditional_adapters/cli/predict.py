"""`coda predict`: a file of rows in, a file of predictions out."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .._atomic import replace_text
from ..tasks.bundle import load_trained_classifier
from ..tasks.data import DataSpec, load_rows
from ..tasks.inference import predict_scores
from . import _options as options
from ._console import messages


def predict(
    adapter: options.Adapter,
    data: options.Data,
    output: Annotated[
        Path | None, typer.Option(help="JSONL file to write; by default standard output.")
    ] = None,
    reduction_factor: options.Factor = None,
    batch_size: options.BatchSize = 32,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
) -> None:
    """Classify the rows of a file.

    Writes one JSON object per row, in the order of the rows: row (from 0, counting the rows that
    were read), label, and scores, the probability of each class.
    """
    classifier = load_trained_classifier(adapter, reduction_factor=reduction_factor)
    spec = DataSpec(
        source=data,
        text_column=text_column,
        image_column=image_column,
        split=split,
        on_bad_row=on_bad_row,
        limit=limit,
    )
    rows = load_rows(spec, modality=classifier.modality, require_labels=False)
    scores = predict_scores(classifier, rows, batch_size=batch_size, show_progress=True)

    def lines() -> Iterator[str]:
        for index, row in enumerate(scores):
            by_label = {
                name: round(float(p), 6) for name, p in zip(classifier.labels, row, strict=True)
            }
            label = classifier.labels[int(row.argmax())]
            yield json.dumps({"row": index, "label": label, "scores": by_label}) + "\n"

    if output is None:
        sys.stdout.writelines(lines())
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, "".join(lines()))
        messages.print(f"{len(rows):,} predictions in {output}")
