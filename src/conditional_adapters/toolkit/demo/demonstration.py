"""Prediction, latency and routing for one input at one r, compared with the dense adapter (r = 1).

Invalid input gives an error message; only bugs raise.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...analysis._modes import evaluating, keeping_reduction_factor
from ...analysis.timing import Timing, time_interleaved
from ...errors import ConditionalAdapterError, ConfigError, DataError
from ...model.attach import set_reduction_factor
from ...model.attachment import active_adapter, get_attachment
from ...model.structure import find_sites
from ..tasks._audio import AudioCell, read_audio
from ..tasks._cells import BadRow, read_image, read_text
from ..tasks._collate import examples_of
from ..tasks._routing import require_drawn
from ..tasks.kinds.speech_recognition import SpeechRecogniser
from ..tasks.recording_map import route_recordings
from ..tasks.routing_map import route_rows
from ..tasks.task import Task
from ..visualisation import RoutedDocument, RoutedRow
from ._page import Answer, render_answer, render_problem

_USUAL_FACTORS = tuple(map(float, range(1, 17)))
_ROUNDS, _WARMUP = 5, 1
_MAX_SECONDS = 30.0  # of a recording


class Demonstration:
    """A trained task that answers one input at a time.

    `factors` are the available reduction factors, ascending: those that an elastic adapter was
    trained with, or 1 to 16. `trained` are the trained factors, `start` is the default one.

    Args:
        task: Classifier or speech recogniser with a conditional model.

    Raises:
        ConfigError: If the task is of another kind.
        AttachmentError: If the model has no active adapter.
    """

    def __init__(self, task: Task) -> None:
        self.task = require_drawn(task)
        config = get_attachment(task.model).configs[active_adapter(task.model)]
        self.start = config.default_reduction_factor
        self.trained = tuple(sorted({*config.elastic_factors, self.start}))
        is_elastic = len(self.trained) > 1
        self.factors = self.trained if is_elastic else tuple(sorted({*_USUAL_FACTORS, self.start}))

    @property
    def kind(self) -> str:
        """Kind of input: "text", "image" or "audio"."""
        return self.task.inputs[0]

    def show(self, value: str | None, factor: float) -> str:
        """Write the answer to an input, or an error message, in HTML."""
        try:
            return render_answer(self.answer(value, factor))
        except ConditionalAdapterError as error:
            return render_problem(str(error))

    def answer(self, value: str | None, factor: float) -> Answer:
        """Run the model on one input at r = 1 and at this r.

        Args:
            value: Text, or path of an image or a recording.
            factor: One of `factors`.

        Returns:
            Predictions, latencies and routing.

        Raises:
            DataError: If the input is empty or cannot be read.
            ConfigError: If the factor is not available, or the routing cannot be shown.
        """
        if factor not in self.factors:
            listed = ", ".join(f"{known:g}" for known in self.factors)
            raise ConfigError(f"r must be one of {listed}, got {factor!r}. Choose one of them.")
        content = read_input(self.kind, value)
        row = self._route(content, factor)
        batch = self._batch(content)
        with evaluating(self.task.model), keeping_reduction_factor(self.task.model):
            timings = _time(self.task, batch, factor)
        return Answer(
            row=row,
            labels=self.task.labels,
            dense=timings["dense"],
            ours=timings["ours"],
            notes=tuple(self._notes(content, factor, row)),
        )

    def _route(self, content: Any, factor: float) -> RoutedRow:  # noqa: ANN401
        routed = factor if factor > 1 else 2.0  # any r above 1 tells which layers are routed
        if isinstance(self.task, SpeechRecogniser):
            (row,) = route_recordings(self.task, [content], (routed,))
        else:
            (row,) = route_rows(self.task, [content], (routed,))
        return row if factor > 1 else _with_every_token(row)

    def _batch(self, content: Any) -> dict[str, Tensor]:  # noqa: ANN401
        batch = self.task.collate(examples_of(self.task.encode({self.kind: [content]})))
        return {name: tensor.to(self.task.model.device) for name, tensor in batch.items()}

    def _notes(self, content: Any, factor: float, row: RoutedRow) -> list[str]:  # noqa: ANN401
        notes = []
        limit = self.task.max_length
        if self.kind == "text" and limit is not None:
            num_tokens = len(self.task.processor(content, verbose=False)["input_ids"])
            if num_tokens > limit:
                words = f"its last {row.num_cut_words:,} words" if row.num_cut_words else "its end"
                notes.append(
                    f"The text has {num_tokens:,} tokens and was truncated to {limit:,}: the model "
                    f"did not see {words}."
                )
        if factor not in self.trained:
            listed = " and ".join(f"{known:g}" for known in self.trained)
            notes.append(
                f"The adapter was trained at r = {listed}, not at {factor:g}. It may be worse here."
            )
        return notes


def read_input(kind: str, value: str | None) -> Any:  # noqa: ANN401
    """Read a text, an RGB image as PIL reads it, or a recording."""
    read, remedy = _READERS[kind]
    if value is None or not value.strip():
        raise DataError(f"There is nothing to look at yet. {remedy}")
    try:
        return read(value)
    except BadRow as problem:
        reason = str(problem)
        if kind != "text":
            reason = reason.replace(value, Path(value).name)  # without the temporary folder
        raise DataError(f"{reason[0].upper()}{reason[1:]}. {remedy}") from None


def _read_image(path: str) -> Any:  # noqa: ANN401
    import datasets

    cell = read_image(path, Path())
    return datasets.Image(mode="RGB").decode_example(cell)


def _read_recording(path: str) -> AudioCell:
    return read_audio(path, Path(), max_seconds=_MAX_SECONDS)


_READERS: Mapping[str, tuple[Any, str]] = {
    "text": (read_text, "Type a text."),
    "image": (_read_image, "Give an image: PNG, JPEG, WebP, GIF, BMP or TIFF."),
    "audio": (_read_recording, "Speak, or give a recording: WAV, FLAC, Ogg or MP3."),
}


def _time(task: Task, batch: Mapping[str, Tensor], factor: float) -> dict[str, Timing]:
    """Time the encoder at r = 1 and at this r, in turns; once if they are equal."""
    encoder: Any = find_sites(task.model).runner

    def encode() -> None:
        with torch.inference_mode():
            encoder(**batch)

    factors = {"dense": 1.0} | ({"ours": factor} if factor > 1 else {})
    timings = time_interleaved(
        dict.fromkeys(factors, encode),
        prepare=lambda name: set_reduction_factor(task.model, factors[name]),
        rounds=_ROUNDS,
        warmup=_WARMUP,
    )
    return {"ours": timings["dense"]} | timings


def _with_every_token(row: RoutedRow) -> RoutedRow:
    """The same row at r = 1."""
    (run,) = row.runs
    num_layers = float(sum(row.is_routed))
    counts: Any
    if isinstance(run.view, RoutedDocument):
        counts = [num_layers] * len(run.view.words)
    else:
        counts = np.full_like(run.view.layer_counts, num_layers)
    view: Any = replace(run.view, layer_counts=counts)
    every = replace(
        run,
        reduction_factor=1.0,
        probabilities=row.dense_probabilities,
        processed=np.ones_like(run.processed),
        transcript=row.dense_transcript,
        view=view,
    )
    return replace(row, runs=[every])
