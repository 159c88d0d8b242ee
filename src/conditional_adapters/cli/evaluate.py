"""`coda evaluate`: quality of a trained adapter on labelled data."""

import numpy as np

from ..tasks.bundle import load_trained_classifier
from ..tasks.data import DataSpec, load_rows
from ..tasks.inference import predict_scores
from ..tasks.metrics import classification_metrics
from . import _options as options
from ._console import print_json, print_metrics


def evaluate(
    adapter: options.Adapter,
    data: options.Data,
    reduction_factor: options.Factor = None,
    batch_size: options.BatchSize = 32,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    label_column: options.LabelColumn = "label",
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure accuracy and macro F1 of a trained adapter."""
    classifier = load_trained_classifier(adapter, reduction_factor=reduction_factor)
    spec = DataSpec(
        source=data,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        split=split,
        on_bad_row=on_bad_row,
        limit=limit,
    )
    rows = load_rows(spec, modality=classifier.modality, labels=classifier.labels)
    scores = predict_scores(classifier, rows, batch_size=batch_size, show_progress=True)
    metrics = classification_metrics(scores, np.asarray(rows["label"]))
    if as_json:
        print_json({"rows": len(rows), **metrics})
    else:
        print_metrics(f"{adapter} on {data}", len(rows), metrics)
