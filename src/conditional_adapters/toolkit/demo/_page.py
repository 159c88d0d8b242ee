"""HTML of an answer, an error message and the slider; text of users is always escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...analysis.timing import Timing
from ..visualisation import RoutedRow, fragment_style, render_routing_fragment
from ..visualisation._templates import templates_of


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Prediction, routing and latency for one input.

    Attributes:
        row: Predictions or transcripts, and routing, with one run.
        labels: Class names; empty without classes.
        dense: Latency of the encoder at r = 1.
        ours: Latency at this r, timed in turns with the dense one.
        notes: Remarks for the reader.
    """

    row: RoutedRow
    labels: tuple[str, ...]
    dense: Timing
    ours: Timing
    notes: tuple[str, ...]


def render_answer(answer: Answer) -> str:
    """HTML of an answer."""
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
    """HTML of an error message."""
    return _render("problem.html", message=message)


def render_header(title: str, description: str) -> str:
    """HTML of the page header."""
    return _render("header.html", title=title, description=description)


def render_slider(factors: Sequence[float], start: float, trained: Sequence[float]) -> str:
    """HTML of the slider for r; its position is the index of a factor."""
    return _render(
        "slider.html",
        stops=[{"name": f"{factor:g}", "is_trained": factor in trained} for factor in factors],
        start=list(factors).index(start),
        trained=", ".join(f"{factor:g}" for factor in trained),
        is_elastic=len(trained) > 1,
    )


def slider_script() -> str:
    """Script that reports the factor of the slider."""
    return _render("slider.js")


def page_style() -> str:
    """CSS of the page."""
    return fragment_style() + _render("app.css")


def _render(name: str, **values: object) -> str:
    return templates_of(__package__ or "").get_template(name).render(values)
