"""`coda show`: see which words or patches a trained adapter spends its work on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .._atomic import replace_file, replace_text
from .._attachment import active_adapter, get_attachment
from ..assets import find_adapter
from ..errors import ConfigError
from ..tasks.bundle import load_trained_classifier
from ..tasks.data import DataSpec, load_rows
from ..tasks.models import Classifier
from ..tasks.routing_map import route_rows
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


def show(
    adapter: options.Adapter,
    output: Annotated[
        Path, typer.Option(help="HTML page to write; a PNG of the same name is put beside it.")
    ],
    text: Annotated[
        list[str] | None, typer.Option(help="A text to show. May be given several times.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Or rows of a data set: " + options.DATA_HELP)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of --data to show, the first ones.")] = 3,
    reduction_factor: options.FactorList = None,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    label_column: Annotated[
        str | None, typer.Option(help="Column that holds the right classes, to show them as well.")
    ] = None,
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
) -> None:
    """Write a page that shows what a trained adapter does with texts or images.

    Words and patches are coloured by the layers that processed them, a map shows layers by tokens,
    and a slider moves through the values of r. Beside each prediction is the one with every token
    processed. The page is one file and needs no network.
    """
    if (text is None) == (data is None):
        raise ConfigError("coda show needs either --text or --data, and not both.")
    classifier = load_trained_classifier(find_adapter(adapter))
    if text is not None and classifier.modality != "text":
        raise ConfigError(f"{adapter} classifies images. Give them with --data, a folder or file.")
    usual, trained = _factors(classifier)
    factors = options.parse_factor_list(reduction_factor) or usual
    contents, gold = text, None
    if data is not None:
        spec = DataSpec(
            source=data,
            text_column=text_column,
            image_column=image_column,
            label_column=label_column or "label",
            split=split,
            on_bad_row=on_bad_row,
            limit=rows,
        )
        contents, gold = _read(spec, classifier, with_labels=label_column is not None)
    routed = route_rows(classifier, contents or [], factors, gold)
    shown = [run.reduction_factor for run in routed[0].runs]
    start = shown.index(trained) if trained in shown else 0
    page = render_routing_page(
        routed, labels=classifier.labels, title=f"Routing of {adapter}", start=start
    )
    picture = output.with_suffix(".png")
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_text(output, page)
    figure = _plot(routed, start)
    replace_file(picture, lambda path: figure.savefig(path, format="png"))
    messages.print(f"page: {output}\npicture: {picture}, at r = {shown[start]:g}")


def _factors(classifier: Classifier) -> tuple[tuple[float, ...], float]:
    """Return the factors to show, and the one that the adapter starts with."""
    model = classifier.model
    config = get_attachment(model).configs[active_adapter(model)]
    start = config.default_reduction_factor
    factors = config.elastic_factors or (start, *_USUAL_FACTORS)
    return tuple(factor for factor in factors if factor > 1) or _USUAL_FACTORS, start


def _read(
    spec: DataSpec, classifier: Classifier, *, with_labels: bool
) -> tuple[list[Any], list[str] | None]:
    known = classifier.labels if with_labels else None
    loaded = load_rows(spec, modality=classifier.modality, labels=known, require_labels=with_labels)
    gold = [classifier.labels[index] for index in loaded["label"]] if with_labels else None
    return list(loaded[classifier.modality]), gold


def _plot(rows: list[RoutedRow], start: int) -> Any:  # noqa: ANN401
    views = [row.runs[start].view for row in rows]
    num_layers = sum(rows[0].is_routed)
    documents = [view for view in views if isinstance(view, RoutedDocument)]
    if documents:
        return plot_token_map(documents, num_layers=num_layers)
    images = [view for view in views if isinstance(view, RoutedImage)]
    return plot_patch_map(images, num_layers=num_layers)
