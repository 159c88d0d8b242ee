"""The HTML of an answer, of a message, and of the slider; what users wrote is always escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...analysis.timing import Timing
from ..visualisation import RoutedRow, fragment_style, render_routing_fragment

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model did with one input.

    Attributes:
        row: Predictions or transcripts, and routing, with one run.
        labels: Class names; empty where nothing is classified.
        dense: Time of the encoder at r = 1.
        ours: The same at this r, in turns with it.
        notes: What a reader should know of this answer.
    """

    row: RoutedRow
    labels: tuple[str, ...]
    dense: Timing
    ours: Timing
    notes: tuple[str, ...]


def render_answer(answer: Answer) -> str:
    """Write an answer: in short, with its notes, and with the routing."""
    row = answer.row
    (run,) = row.runs
    shown: dict[str, Any] = {}
    if run.transcript is None:
        ours, dense = np.asarray(run.probabilities), np.asarray(row.dense_probabilities)
        best, dense_best = int(ours.argmax()), int(dense.argmax())
        shown = {
            "label": answer.labels[best],
            "probability": ours[best],
            "dense_label": answer.labels[dense_best],
            "dense_probability": dense[dense_best],
        }
    routed = run.processed[list(row.is_routed)]
    return _render(
        "answer.html",
        answer=answer,
        transcript=run.transcript,
        factor=f"{run.reduction_factor:g}",
        speed_up=answer.ours.speed_up(over=answer.dense),
        milliseconds=1000 * answer.ours.median,
        dense_milliseconds=1000 * answer.dense.median,
        num_rounds=len(answer.ours.seconds),
        num_processed=int(routed.sum(1).max()),
        num_tokens=routed.shape[1],
        routing=render_routing_fragment(row, labels=answer.labels),
        **shown,
    )


def render_problem(message: str) -> str:
    """Write why there is no answer."""
    return _render("problem.html", message=message)


def render_header(title: str, description: str) -> str:
    """Write the top of the page."""
    return _render("header.html", title=title, description=description)


def render_slider(factors: Sequence[float], start: float, trained: Sequence[float]) -> str:
    """Write the slider for r; its position is the index of a factor."""
    return _render(
        "slider.html",
        stops=[{"name": f"{factor:g}", "is_trained": factor in trained} for factor in factors],
        start=list(factors).index(start),
        trained=", ".join(f"{factor:g}" for factor in trained),
        is_elastic=len(trained) > 1,
    )


def slider_script() -> str:
    """Return what makes the slider tell its factor, once it is on the page."""
    return _render("slider.js")


def page_style() -> str:
    """Write the style of all of it."""
    return fragment_style() + _render("app.css")


def _render(name: str, **values: object) -> str:
    return _environment().get_template(name).render(values)


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "templates"),
        autoescape=lambda name: name is None or name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
