"""Recordings with their transcripts and routing, ready to be drawn."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...analysis import RoutingRecord, record_routing
from ...analysis._modes import evaluating, keeping_reduction_factor
from ...model.attach import set_reduction_factor
from ..visualisation import RoutedImage, RoutedRow, RoutedRun
from ._audio import AudioCell
from ._collate import examples_of
from ._routing import factors_with_a_choice, routed_layers
from .kinds.speech_recognition import SpeechRecogniser

_TITLE_LENGTH = 200  # characters of a transcript


def route_recordings(
    recogniser: SpeechRecogniser,
    recordings: Sequence[AudioCell],
    factors: Iterable[float],
    gold: Sequence[str] | None = None,
) -> list[RoutedRow]:
    """Write down recordings densely and at several reduction factors, and record the routing.

    Dense means the same adapter at r = 1. Afterwards the model is in the mode and at the reduction
    factor it had.

    Args:
        recogniser: A Whisper whose model is conditional.
        recordings: Each at most as long as the window of the model: `{"path": file, "bytes": None}`
            or with the bytes of a file.
        factors: Reduction factors above 1.
        gold: Their right transcripts.

    Returns:
        One row for each recording, with a run for each factor in ascending order. The picture is
        the spectrogram that the model reads, low tones at the bottom, cut where the recording
        ends; what routers choose behind that is not shown.

    Raises:
        ConfigError: If a factor is not above 1, or no layer is routed.
        DataError: If a recording is damaged or too long.
        AttachmentError: If the model has no active adapter.
    """
    ordered = factors_with_a_choice(factors)
    with evaluating(recogniser.model), keeping_reduction_factor(recogniser.model):
        return [
            _route(recogniser, cell, ordered, index, None if gold is None else gold[index])
            for index, cell in enumerate(recordings)
        ]


def _route(
    recogniser: SpeechRecogniser,
    recording: AudioCell,
    factors: Sequence[float],
    index: int,
    gold: str | None,
) -> RoutedRow:
    model = recogniser.model
    batch = recogniser.collate(examples_of(recogniser.encode({"audio": [recording]})))
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    dense, _ = _hear(recogniser, inputs, 1)
    config: Any = model.config
    frames_per_token = batch["input_features"].shape[-1] // config.max_source_positions
    num_tokens = -(-int(batch["attention_mask"].sum()) // frames_per_token)
    pixels = _spectrogram(batch["input_features"][0, :, : num_tokens * frames_per_token])
    extractor = recogniser.processor.feature_extractor
    seconds = num_tokens * frames_per_token * extractor.hop_length / extractor.sampling_rate
    runs = []
    for factor in factors:
        heard, routing = _hear(recogniser, inputs, factor)
        processed = routing.processed_tokens()[:, 0, :num_tokens].cpu().numpy()
        counts = processed[routed_layers(model, routing)].sum(0, keepdims=True)
        runs.append(
            RoutedRun(
                reduction_factor=factor,
                probabilities=(),
                processed=processed,
                view=RoutedImage(
                    title=_title(factor, heard, dense, gold),
                    pixels=pixels,
                    layer_counts=counts.astype(np.float64),
                    seconds=seconds,
                ),
                transcript=heard,
            )
        )
    name = recording["path"]
    return RoutedRow(
        heading=f"Recording {index + 1}" + (f": {Path(name).name}" if name else ""),
        gold=gold,
        tokens=[""] * num_tokens,
        is_routed=[decision is not None for decision in routing.layers],
        dense_probabilities=(),
        dense_transcript=dense,
        runs=runs,
    )


def _title(factor: float, heard: str, dense: str, gold: str | None) -> str:
    said = {f"r = {factor:g}": heard, "with every token": dense}
    if gold is not None:
        said["right"] = gold
    # A recogniser that never ends would push the picture off the page.
    return "; ".join(f'{who}: "{shorten(text, _TITLE_LENGTH)}"' for who, text in said.items())


def _hear(
    recogniser: SpeechRecogniser, inputs: Mapping[str, Tensor], factor: float
) -> tuple[str, RoutingRecord]:
    """Write a recording down; the encoder runs once, before the decoder."""
    set_reduction_factor(recogniser.model, factor)
    with torch.inference_mode(), record_routing(recogniser.model) as routing:
        (text,) = recogniser.infer(inputs)
    return text.strip(), routing


def _spectrogram(
    features: Float[Tensor, "channels frames"],
) -> UInt8[np.ndarray, "channels frames 3"]:
    """Paint loud bright and silence black."""
    values = features.float().cpu().flip(0)
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-6)
    return (255 * scaled).round().byte()[..., None].expand(-1, -1, 3).numpy()
