"""`coda evaluate`: quality of a trained adapter on data with targets."""

import typer

from ...hub.measurements import Measurement
from ...hub.model_card import record_measurements
from ...model.attachment import active_adapter, get_attachment
from ..assets import find_adapter
from ..tasks.bundle import load_trained_task
from ..tasks.inference import predict
from ..tasks.kinds import find_task
from ..tasks.task_data import load_task_rows
from . import _options as options
from ._console import print_json, print_metrics


def evaluate(
    context: typer.Context,
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
    write: options.WriteResult = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure the quality of a trained adapter with the metrics of its task."""
    folder = options.folder_to_write(adapter) if write else find_adapter(adapter)
    task = load_trained_task(folder, reduction_factor=reduction_factor)
    spec = options.data_spec(context)
    rows = load_task_rows(find_task(task.name), spec, labels=task.labels)
    metrics = task.score(predict(task, rows, batch_size=batch_size, show_progress=True), rows)
    if write:
        config = get_attachment(task.model).configs[active_adapter(task.model)]
        measurement = Measurement(
            command=options.command_line(context),
            data=data,
            part=split,
            rows=len(rows),
            reduction_factor=reduction_factor or config.default_reduction_factor,
            metrics=metrics,
        )
        record_measurements(folder, [measurement])
    if as_json:
        print_json({"rows": len(rows), **metrics})
    else:
        print_metrics(f"{adapter} on {data}", len(rows), metrics)
