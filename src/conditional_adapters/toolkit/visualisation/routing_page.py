"""A self-contained HTML page on the routing of a few rows.

A slider selects one of several reduction factors, all computed before. The page loads nothing from
elsewhere. `templates/` contains the page, its style and its script; this module computes their
values. User text reaches the page through Jinja's escaping or as JSON, and a content security
policy allows no script but ours.

Words and patches have one of 21 colours. More layers are darker on a white page, in the colours of
our pictures, and brighter on a black page, in those of matplotlib's magma. The lightness of both
scales is monotonic, so colour-blind readers can read them.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ...errors import RoutingError
from ._colours import palette, readable_ink, scale_ticks
from ._templates import templates_of
from .patch_map import RoutedImage, time_ticks
from .token_map import RoutedDocument

_STEPS = 20  # of the colour scale
_DARK_COLORMAP, _DARK_RANGE = "magma", (0.1, 0.97)  # its low end is lighter than the page
_MAX_CLASSES = 8


@dataclass(frozen=True, kw_only=True)
class RoutedRun:
    """Routing and prediction for one row at one reduction factor.

    Attributes:
        reduction_factor: r.
        probabilities: Probability of each class; empty without classes.
        processed: True where a layer processed a token; the first row is the layer nearest the
            input.
        view: Number of layers that processed each word, patch or moment.
        transcript: Transcript of a recording; None otherwise.
    """

    reduction_factor: float
    probabilities: Sequence[float]
    processed: Bool[np.ndarray, "layers tokens"]
    view: RoutedDocument | RoutedImage
    transcript: str | None = None


@dataclass(frozen=True, kw_only=True)
class RoutedRow:
    """Routing and predictions for one text, image or recording.

    Attributes:
        heading: Title of the row.
        gold: Right class or transcript; None if unknown.
        tokens: Name of each token.
        is_routed: Whether each layer chooses tokens; the others process all.
        dense_probabilities: Probability of each class at r = 1; empty without classes.
        runs: One per reduction factor, ascending; the same factors for all rows of a page.
        num_cut_words: Number of words that the tokenizer truncated.
        dense_transcript: Transcript of a recording at r = 1; None otherwise.
    """

    heading: str
    gold: str | None
    tokens: Sequence[str]
    is_routed: Sequence[bool]
    dense_probabilities: Sequence[float]
    runs: Sequence[RoutedRun]
    num_cut_words: int = 0
    dense_transcript: str | None = None


def render_routing_page(
    rows: Sequence[RoutedRow], *, labels: Sequence[str], title: str, start: int = 0
) -> str:
    """Write the page.

    Args:
        rows: Rows to show, from top to bottom; at least one.
        labels: Class names in the order of the probabilities; empty without classes.
        title: Title of the page.
        start: Index of the initial reduction factor.

    Returns:
        HTML, including style, script and images.

    Raises:
        RoutingError: If there is no row, or rows differ in their reduction factors.
    """
    factors = [run.reduction_factor for run in rows[0].runs] if rows else []
    if not factors or any([run.reduction_factor for run in r.runs] != factors for r in rows):
        raise RoutingError(
            f"A page needs at least 1 row, and the same reduction factors in all rows. Got "
            f"{len(rows)} rows with {[[run.reduction_factor for run in r.runs] for r in rows]}. "
            "Route all rows together."
        )
    environment = templates_of(__package__ or "")
    script = environment.get_template("routing.js").render().strip()
    num_layers = sum(rows[0].is_routed)
    shown = [_row(row, labels, num_layers, start) for row in rows]
    return environment.get_template("routing.html").render(
        title=title,
        rows=shown,
        factors=[f"{factor:g}" for factor in factors],
        start=start,
        num_layers=num_layers,
        ticks=_ticks(num_layers),
        levels=range(_STEPS + 1),
        style=environment.get_template("routing.css").render(_schemes()),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data={
            "factors": [f"{factor:g}" for factor in factors],
            "layers": num_layers,
            "rows": [row["data"] for row in shown],
        },
    )


def render_routing_fragment(row: RoutedRow, *, labels: Sequence[str]) -> str:
    """Write one run of a row as a part of another page, without slider and script."""
    if len(row.runs) != 1:
        raise RoutingError(f"A fragment needs exactly 1 run, got {len(row.runs)}. Choose one.")
    num_layers = sum(row.is_routed)
    return (
        templates_of(__package__ or "")
        .get_template("fragment.html")
        .render(
            row=_row(row, labels, num_layers, start=0),
            factor=f"{row.runs[0].reduction_factor:g}",
            levels=range(_STEPS + 1),
            ticks=_ticks(num_layers),
            num_layers=num_layers,
        )
    )


def fragment_style() -> str:
    """Style of fragments: dark within an element of the class `dark`, light elsewhere.

    Returns:
        CSS whose rules apply only within elements of the class `coda`.
    """
    return templates_of(__package__ or "").get_template("fragment.css").render(_schemes())


def _schemes() -> dict[str, list[dict[str, str]]]:
    return {
        "light": _colours(np.linspace(0, 1, _STEPS + 1)),
        "dark": _colours(np.linspace(*_DARK_RANGE, _STEPS + 1), _DARK_COLORMAP),
    }


def _row(row: RoutedRow, labels: Sequence[str], num_layers: int, start: int) -> dict[str, Any]:
    """Values of the template for a row; `data` is for the script."""
    view = row.runs[start].view
    counts = [_counts(run.view) for run in row.runs]
    listed = _listed_classes(row) if labels else []
    layers = [_layers(run.processed) for run in row.runs]
    return {
        "heading": row.heading,
        "gold": row.gold,
        "dense": [row.dense_probabilities[index] for index in listed],
        "labels": [labels[index] for index in listed],
        "num_hidden_classes": len(labels) - len(listed),
        "words": view.words if isinstance(view, RoutedDocument) else None,
        "num_cut_words": row.num_cut_words,
        "dense_transcript": row.dense_transcript,
        "image": None if isinstance(view, RoutedDocument) else _image(view),
        "tokens": row.tokens,
        "is_routed": list(reversed(row.is_routed)),
        "data": {
            "verdicts": [_verdict(row, run, labels) for run in row.runs],
            "transcripts": [run.transcript for run in row.runs],
            "probabilities": [[float(run.probabilities[i]) for i in listed] for run in row.runs],
            "counts": [[round(count, 2) for count in values] for values in counts],
            "levels": [[round(_STEPS * c / num_layers) for c in values] for values in counts],
            "layers": layers,
        },
    }


def _counts(view: RoutedDocument | RoutedImage) -> list[float]:
    return [float(count) for count in np.ravel(view.layer_counts)]


def _layers(processed: Bool[np.ndarray, "layers tokens"]) -> list[str]:
    """One string of digits per layer, the last layer first."""
    return ["".join("01"[int(cell)] for cell in layer) for layer in processed[::-1]]


def _listed_classes(row: RoutedRow) -> list[int]:
    """The most probable classes in any run, sorted by probability of the dense model."""
    dense = np.asarray(row.dense_probabilities)
    highest = np.max([dense, *(np.asarray(run.probabilities) for run in row.runs)], axis=0)
    kept = np.argsort(-highest, kind="stable")[:_MAX_CLASSES]
    return sorted((int(index) for index in kept), key=lambda index: -dense[index])


def _verdict(row: RoutedRow, run: RoutedRun, labels: Sequence[str]) -> str:
    """One sentence on the agreement with the dense model."""
    if not labels:
        is_same = run.transcript == row.dense_transcript
        return "The same transcript." if is_same else "The transcripts differ."
    dense = labels[int(np.argmax(row.dense_probabilities))]
    ours = labels[int(np.argmax(run.probabilities))]
    if ours == dense:
        return f"Same answer: {ours}."
    return f"Different answers: {dense} with every token, {ours} at r = {run.reduction_factor:g}."


def _image(view: RoutedImage) -> dict[str, Any]:
    height, width, _ = view.pixels.shape
    rows, columns = view.layer_counts.shape
    return {
        "source": f"data:image/png;base64,{_png(view.pixels)}",
        "width": width,
        "height": height,
        "rows": rows,
        "columns": columns,
        "unit": view.unit,
        "ticks": [] if view.seconds is None else time_ticks(view.seconds),
    }


def _png(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _colours(fractions: Iterable[float], *colormap_name: str) -> list[dict[str, str]]:
    """Colour of each level, and black or white for the text on it."""
    from matplotlib.colors import to_hex

    colours = palette(fractions, *colormap_name)
    return [{"ground": to_hex(rgb), "ink": readable_ink(rgb)} for rgb in colours]


def _ticks(num_layers: int) -> list[tuple[int, float]]:
    """Numbers below the colour scale, each with the position of its level, in [0, 1]."""
    return [
        (tick, (_STEPS * tick / num_layers + 0.5) / (_STEPS + 1))
        for tick in scale_ticks(num_layers)
    ]
