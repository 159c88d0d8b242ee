"""Routing maps of recordings, with their transcripts."""

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
    """Transcribe recordings at r = 1 and at several reduction factors, and record the routing.

    The mode and the reduction factor of the model are restored.

    Args:
        recogniser: A Whisper whose model is conditional.
        recordings: Paths or bytes of files, each at most as long as the window of the model.
        factors: Reduction factors above 1.
        gold: The correct transcripts.

    Returns:
        One row per recording, with one run per factor, ascending. The image is the spectrogram
        that the model reads, low frequencies at the bottom, cut at the end of the recording;
        tokens chosen after it are not shown.

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
    dense, _ = _transcribe(recogniser, inputs, 1)
    config: Any = model.config
    frames_per_token = batch["input_features"].shape[-1] // config.max_source_positions
    num_tokens = -(-int(batch["attention_mask"].sum()) // frames_per_token)
    pixels = _spectrogram(batch["input_features"][0, :, : num_tokens * frames_per_token])
    extractor = recogniser.processor.feature_extractor
    seconds = num_tokens * frames_per_token * extractor.hop_length / extractor.sampling_rate
    runs = []
    for factor in factors:
        transcript, routing = _transcribe(recogniser, inputs, factor)
        processed = routing.processed_tokens()[:, 0, :num_tokens].cpu().numpy()
        counts = processed[routed_layers(model, routing)].sum(0, keepdims=True)
        runs.append(
            RoutedRun(
                reduction_factor=factor,
                probabilities=(),
                processed=processed,
                view=RoutedImage(
                    title=_title(factor, transcript, dense, gold),
                    pixels=pixels,
                    layer_counts=counts.astype(np.float64),
                    seconds=seconds,
                ),
                transcript=transcript,
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


def _title(factor: float, transcript: str, dense: str, gold: str | None) -> str:
    said = {f"r = {factor:g}": transcript, "with every token": dense}
    if gold is not None:
        said["right"] = gold
    # An endless transcript would push the image off the page.
    return "; ".join(f'{who}: "{shorten(text, _TITLE_LENGTH)}"' for who, text in said.items())


def _transcribe(
    recogniser: SpeechRecogniser, inputs: Mapping[str, Tensor], factor: float
) -> tuple[str, RoutingRecord]:
    """Transcribe a recording; the encoder runs once, before the decoder."""
    set_reduction_factor(recogniser.model, factor)
    with torch.inference_mode(), record_routing(recogniser.model) as routing:
        (text,) = recogniser.infer(inputs)
    return text.strip(), routing


def _spectrogram(
    features: Float[Tensor, "channels frames"],
) -> UInt8[np.ndarray, "channels frames 3"]:
    """Convert log-mel features to an image: loud is bright, silence black."""
    values = features.float().cpu().flip(0)
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-6)
    return (255 * scaled).round().byte()[..., None].expand(-1, -1, 3).numpy()
