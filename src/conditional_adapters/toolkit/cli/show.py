"""`coda show`: a page and a picture of the routing of a trained adapter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...checkpoint.atomic import replace_file, replace_text
from ...errors import ConfigError
from ...model.attachment import active_adapter, get_attachment
from ..assets import find_adapter
from ..tasks._audio import AudioCell
from ..tasks._routing import DrawnTask, require_drawn
from ..tasks.bundle import load_trained_task
from ..tasks.data import DataSpec
from ..tasks.kinds import find_task
from ..tasks.kinds.speech_recognition import SpeechRecogniser
from ..tasks.recording_map import route_recordings
from ..tasks.routing_map import route_rows
from ..tasks.task_data import load_task_rows
from ..visualisation import (
    RoutedDocument,
    RoutedImage,
    RoutedRow,
    plot_patch_map,
    plot_token_map,
    render_routing_page,
)
from . import _options as options
from ._console import messages

_USUAL_FACTORS = (2.0, 4.0, 8.0)
_INPUTS = {"text": "--text or --data", "image": "--data", "audio": "--audio or --data"}


def show(
    context: typer.Context,
    adapter: options.Adapter,
    output: Annotated[
        Path,
        typer.Option(help="HTML page to write; a PNG of the same name is written beside it."),
    ],
    text: Annotated[list[str] | None, typer.Option(help="Text to show. Repeatable.")] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(help="Or a recording: WAV, FLAC, Ogg or MP3. Repeatable."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Or rows of a data set: " + options.DATA_HELP)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows of --data to show.")] = 3,
    reduction_factor: options.FactorList = None,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of the right classes or transcripts, to show them too."),
    ] = None,
    column: options.Columns = None,
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
) -> None:
    """Write a page that shows how a trained adapter routes texts, images or recordings.

    Words, patches and moments are coloured by the number of layers that processed them. A map shows
    layers by tokens, and a slider selects r. Each prediction or transcript is shown beside the
    dense one (r = 1). The page is one file and needs no network.
    """
    given = {"text": text, "audio": audio, "data": data}
    if sum(value is not None for value in given.values()) != 1:
        raise ConfigError("coda show needs exactly one of --text, --audio and --data.")
    task = require_drawn(load_trained_task(find_adapter(adapter)))
    (kind,) = task.inputs
    if data is None and given.get(kind) is None:
        raise ConfigError(
            f"{adapter} is an adapter for {task.name}. Give its input with {_INPUTS[kind]}."
        )
    usual, trained = _factors(task)
    factors = options.parse_factor_list(reduction_factor) or usual
    columns = options.parse_columns(column)
    if kind == "audio" and label_column is not None:
        columns["text"] = label_column
    spec = options.data_spec(
        context,
        source=data or "",
        label_column=label_column or "label",
        columns=columns,
        limit=rows,
    )
    routed = _route(task, spec, text or audio, factors, with_targets=label_column is not None)
    shown = [run.reduction_factor for run in routed[0].runs]
    start = shown.index(trained) if trained in shown else 0
    page = render_routing_page(
        routed, labels=task.labels, title=f"Routing of {adapter}", start=start
    )
    picture = output.with_suffix(".png")
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_text(output, page)
    figure = _plot(routed, start)
    replace_file(picture, lambda path: figure.savefig(path, format="png"))
    messages.print(f"page: {output}\npicture: {picture}, at r = {shown[start]:g}")


def _factors(task: DrawnTask) -> tuple[tuple[float, ...], float]:
    """The default factors to show, and the default factor of the adapter."""
    model = task.model
    config = get_attachment(model).configs[active_adapter(model)]
    start = config.default_reduction_factor
    factors = config.elastic_factors or (start, *_USUAL_FACTORS)
    return tuple(factor for factor in factors if factor > 1) or _USUAL_FACTORS, start


def _route(
    task: DrawnTask,
    spec: DataSpec,
    contents: Sequence[str | Path] | None,
    factors: Sequence[float],
    *,
    with_targets: bool,
) -> list[RoutedRow]:
    """Route the contents given on the command line, or else the rows of a data set."""
    (kind,) = task.inputs
    given: Sequence[Any] = contents or ()
    gold = None
    if isinstance(task, SpeechRecogniser):
        given = [AudioCell(bytes=None, path=str(path)) for path in given]
    if not given:
        loaded = load_task_rows(
            find_task(task.name),
            spec,
            labels=(task.labels or None) if with_targets else None,
            with_targets=with_targets,
        )
        given = list(loaded[kind])
        if with_targets:
            (target,) = set(loaded.column_names) - {kind}
            gold = [task.labels[each] if task.labels else each for each in loaded[target]]
    if isinstance(task, SpeechRecogniser):
        return route_recordings(task, given, factors, gold)
    return route_rows(task, given, factors, gold)


def _plot(rows: list[RoutedRow], start: int) -> Any:  # noqa: ANN401
    views = [row.runs[start].view for row in rows]
    num_layers = sum(rows[0].is_routed)
    documents = [view for view in views if isinstance(view, RoutedDocument)]
    if documents:
        return plot_token_map(documents, num_layers=num_layers)
    images = [view for view in views if isinstance(view, RoutedImage)]
    return plot_patch_map(images, num_layers=num_layers)
