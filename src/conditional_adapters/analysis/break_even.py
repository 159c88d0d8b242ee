"""Break-even batch size of routing, measured on the user's model and machine.

Router, gathering and adapter cost about the same at every r, so small batches may be slower routed
than dense. The break-even size depends on the model, r, the machine and its threads. It is the
value to pass to `set_dense_below`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..model.attach import set_reduction_factor
from ..model.structure import find_sites
from ._modes import evaluating, keeping_reduction_factor, refuse_dense_below
from .timing import Timing, time_interleaved


@dataclass(frozen=True, kw_only=True)
class SizeTiming:
    """Latency of the encoder on batches of one size, at several r.

    Attributes:
        num_tokens: Tokens of the batch: batch size times padded length.
        dense: Latency at r = 1, the dense encoder with adapters.
        routed: Latency by r.
    """

    num_tokens: int
    dense: Timing
    routed: dict[float, Timing]

    def speed_up(self, factor: float) -> float:
        """Speed-up over dense at reduction factor r."""
        return self.routed[factor].speed_up(over=self.dense)


def time_sizes(
    model: nn.Module,
    batches: Mapping[int, Mapping[str, Tensor]],
    *,
    factors: Sequence[float],
    rounds: int = 15,
    show_progress: bool = False,
) -> list[SizeTiming]:
    """Time batches of several sizes; all r of a size take turns."""
    refuse_dense_below(model, "so they cannot be timed routed")
    encoder = find_sites(model).runner

    def run(batch: Mapping[str, Tensor]) -> None:
        with torch.inference_mode():
            encoder(**batch)

    timings = []
    with evaluating(model), keeping_reduction_factor(model):
        for num_tokens in sorted(batches):
            times = time_interleaved(
                {str(factor): partial(run, batches[num_tokens]) for factor in (1.0, *factors)},
                prepare=lambda name: set_reduction_factor(model, float(name)),
                rounds=rounds,
                show_progress=show_progress,
            )
            routed = {factor: times[str(factor)] for factor in factors}
            timings.append(SizeTiming(num_tokens=num_tokens, dense=times[str(1.0)], routed=routed))
    return timings


def break_even(timings: Sequence[SizeTiming], factor: float) -> int | None:
    """Find the smallest batch size from which routing is not slower than dense.

    Args:
        timings: The result of `time_sizes`.
        factor: One of its values of r.

    Returns:
        Number of tokens of the batch. All larger measured sizes are not slower either. None if the
        largest measured size is slower.
    """
    smallest = None
    for timing in sorted(timings, key=lambda timing: -timing.num_tokens):
        if timing.speed_up(factor) < 1:
            break
        smallest = timing.num_tokens
    return smallest
