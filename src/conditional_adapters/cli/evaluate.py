"""`coda evaluate`: quality of a trained adapter on data with targets."""

from ..tasks.bundle import load_trained_task
from ..tasks.data import DataSpec
from ..tasks.inference import predict
from ..tasks.kinds import find_task
from ..tasks.rows import load_task_rows
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
    column: options.Columns = None,
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure a trained adapter by the metrics of its task."""
    task = load_trained_task(adapter, reduction_factor=reduction_factor)
    spec = DataSpec(
        source=data,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        columns=options.parse_columns(column),
        split=split,
        on_bad_row=on_bad_row,
        limit=limit,
    )
    rows = load_task_rows(find_task(task.name), spec, labels=task.labels)
    metrics = task.score(predict(task, rows, batch_size=batch_size, show_progress=True), rows)
    if as_json:
        print_json({"rows": len(rows), **metrics})
    else:
        print_metrics(f"{adapter} on {data}", len(rows), metrics)
