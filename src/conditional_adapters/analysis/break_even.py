"""From which size of a batch on routing pays, measured on the user's model and machine.

Router, gathering and adapter cost about the same whatever is skipped, so small batches may be
slower routed than dense. Where that ends depends on the model, r, the machine and its threads; what
is found here is a number for `set_dense_below`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..model.attach import set_reduction_factor
from ..model.structure import find_sites
from ._modes import evaluating, keeping_reduction_factor
from .timing import Timing, time_interleaved


@dataclass(frozen=True, kw_only=True)
class SizeTiming:
    """The encoder on batches of one size, at several r.

    Attributes:
        num_tokens: Tokens of the batch: rows times padded length.
        dense: Times at r = 1, the dense encoder with adapters.
        routed: Times by r.
    """

    num_tokens: int
    dense: Timing
    routed: dict[float, Timing]

    def speed_up(self, factor: float) -> float:
        """Return how many times faster than dense the encoder is at r."""
        return self.routed[factor].speed_up(over=self.dense)


def time_sizes(
    model: nn.Module,
    batches: Mapping[int, Mapping[str, Tensor]],
    *,
    factors: Sequence[float],
    rounds: int = 15,
    show_progress: bool = False,
) -> list[SizeTiming]:
    """Time batches of several sizes, all r of a size in turns.

    Args:
        model: A conditional model with an active adapter, for which no limit of `set_dense_below`
            is set. Its reduction factor is kept.
        batches: Inputs of the encoder by their number of tokens, padding included.
        factors: r, each above 1.
        rounds: Measured runs of each, >= 3.
        show_progress: Show a progress bar for each size.

    Returns:
        Times, the smallest size first.

    Raises:
        ConfigError: If small batches run dense already.
    """
    limits = {getattr(module, "coda_dense_below", None) for module in model.modules()} - {None}
    if limits:
        raise ConfigError(
            f"batches of fewer than {limits.pop()} tokens run dense, so routing them cannot be "
            "timed. Call set_dense_below(model, None) first."
        )
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
    """Return the smallest size from which on routing is not slower than dense.

    Args:
        timings: What `time_sizes` returned.
        factor: One of its r.

    Returns:
        Tokens of a batch; all larger measured sizes gain, too. None if the largest does not.
    """
    smallest = None
    for timing in sorted(timings, key=lambda timing: -timing.num_tokens):
        if timing.speed_up(factor) < 1:
            break
        smallest = timing.num_tokens
    return smallest
