"""Latency of a conditional model on the user's own input, against the dense model."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..model.attachment import active_adapter, conditional_layers, switch
from ..model.structure import find_sites
from ._modes import evaluating
from .timing import Timing, time_interleaved


@dataclass(frozen=True)
class SpeedMeasurement:
    """Latency of an encoder with its adapter and without, in turns on the same input.

    `print` it for a one-line summary.

    Attributes:
        conditional: With the active adapter, at its reduction factor.
        dense: The pretrained encoder without any adapter.
        reduction_factor: r during the measurement.
        batch_shape: Shape of the main input.
        environment: Device, threads and dtype.
    """

    conditional: Timing
    dense: Timing
    reduction_factor: float
    batch_shape: tuple[int, ...]
    environment: str

    @property
    def speed_up(self) -> float:
        """Median over the rounds of dense latency over conditional latency; below 1 if slower."""
        return self.conditional.speed_up(over=self.dense)

    def __str__(self) -> str:
        """One-line summary with the median and the quartiles of the speed-up."""
        pairs = zip(self.dense.seconds, self.conditional.seconds, strict=True)
        low, _, high = statistics.quantiles((d / c for d, c in pairs), n=4, method="inclusive")
        return (
            f"r = {self.reduction_factor:g}: {1000 * self.conditional.median:.2f} ms, dense "
            f"{1000 * self.dense.median:.2f} ms, {self.speed_up:.2f}x ({low:.2f} to {high:.2f} in "
            f"half of {len(self.dense.seconds)} rounds); {' x '.join(map(str, self.batch_shape))}, "
            f"{self.environment}"
        )


def measure_speed(
    model: nn.Module, inputs: Mapping[str, Tensor], *, rounds: int = 15
) -> SpeedMeasurement:
    """Time the encoder with its adapter and without, on real input.

    The task head is included, a decoder is not. Both take turns in each round, in evaluation mode
    and without gradients, after three warm-up rounds. The state of the model is restored. The
    result holds for this input shape on this machine, if nothing else runs on it.

    Args:
        model: A conditional model with an active adapter.
        inputs: Arguments of the model, on its device. Labels and decoder arguments are ignored.
        rounds: Measured runs of each, >= 3.

    Returns:
        The measurement.

    Raises:
        ConfigError: If there are fewer than 3 rounds.
        AttachmentError: If the model has no active adapter.

    Example:
        >>> print(ca.measure_speed(model, tokenizer(texts, padding=True, return_tensors="pt")))
    """
    name = active_adapter(model)
    sites = find_sites(model)
    encoder: Any = sites.runner
    arguments = {
        key: value
        for key, value in inputs.items()
        if key != "labels" and not key.startswith("decoder_")
    }

    def encode() -> None:
        with torch.inference_mode():
            encoder(**arguments)

    adapters = {"conditional": name, "dense": None}
    with evaluating(model):
        try:
            timings = time_interleaved(
                dict.fromkeys(adapters, encode),
                prepare=lambda candidate: switch(model, adapters[candidate]),
                rounds=rounds,
            )
        finally:
            switch(model, name)
    inner = sites.inner
    return SpeedMeasurement(
        **timings,
        reduction_factor=conditional_layers(model)[0].coda_part(name).reduction_factor,
        batch_shape=tuple(arguments[encoder.main_input_name].shape),
        environment=f"{inner.device}, {torch.get_num_threads()} threads, {inner.dtype}",
    )
