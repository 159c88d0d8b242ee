"""`coda predict`: predictions of a trained adapter for a data set."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ...checkpoint.atomic import replace_text
from ...prepacking import prepack_weights
from ..assets import find_adapter
from ..tasks import inference
from ..tasks.bundle import load_trained_task
from ..tasks.kinds import find_task
from ..tasks.task_data import load_task_rows
from . import _options as options
from ._console import messages


def predict(
    context: typer.Context,
    adapter: options.Adapter,
    data: options.Data,
    output: Annotated[
        Path | None, typer.Option(help="JSONL file to write; by default standard output.")
    ] = None,
    reduction_factor: options.Factor = None,
    batch_size: options.BatchSize = 32,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    column: options.Columns = None,
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    prepacked: options.Prepacked = False,
) -> None:
    """Run a trained adapter on the rows of a data set.

    Writes one JSON object per row, in their order: row, its index among the rows that were read,
    and the prediction of the task. For classification that is label, and scores, the probability of
    each class.
    """
    task = load_trained_task(find_adapter(adapter), reduction_factor=reduction_factor)
    if prepacked:
        prepack_weights(task.model)
    spec = options.data_spec(context)
    rows = load_task_rows(find_task(task.name), spec, with_targets=False)
    predictions = inference.predict(task, rows, batch_size=batch_size, show_progress=True)

    def lines() -> Iterator[str]:
        for index, prediction in enumerate(predictions):
            yield json.dumps({"row": index, **prediction}) + "\n"

    if output is None:
        sys.stdout.writelines(lines())
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, "".join(lines()))
        messages.print(f"{len(rows):,} predictions in {output}")
