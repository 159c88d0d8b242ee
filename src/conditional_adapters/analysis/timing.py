"""Interleaved timing of several candidates.

The speed of a machine drifts, so candidates take turns in every round, and only ratios within a
round are comparable. On CPUs, returning freed memory to the system causes page faults, which slow
the larger (dense) computation down more. The C allocator therefore keeps its pages.
"""

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..errors import ConfigError

_NUMBERS = count()  # of compiled modules
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_NEVER = -1  # a threshold in bytes would have to fit an int, 2 GiB; dense layers free more


@dataclass(frozen=True)
class Timing:
    """Latency of one candidate in seconds, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile."""
        lower, median, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return lower, median, upper

    @property
    def median(self) -> float:
        """Median latency."""
        return self.quartiles[1]

    def speed_up(self, over: "Timing") -> float:
        """Median over the rounds of the other latency over this one."""
        return statistics.median(
            theirs / ours for theirs, ours in zip(over.seconds, self.seconds, strict=True)
        )


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    prepare: Callable[[str], object] | None = None,
    rounds: int = 20,
    warmup: int = 3,
    show_progress: bool = False,
) -> dict[str, Timing]:
    """Time functions in turns, in a new order in every round.

    The previous candidate leaves warm or cold caches behind. The changing order, which is the same
    in every call, averages that out.

    Args:
        candidates: Functions by name.
        prepare: Called with the name before each run, outside the measured time.
        rounds: Measured runs of each, >= 3.
        warmup: Unmeasured runs of each before, >= 0.
        show_progress: Show a progress bar.

    Returns:
        The latency of each candidate.

    Raises:
        ConfigError: If a number is out of range.
    """
    if rounds < 3 or warmup < 0:
        raise ConfigError(
            f"rounds must be at least 3 and warmup at least 0, got {rounds}, {warmup}."
        )
    keep_freed_memory()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for index in tqdm(range(warmup + rounds), desc="timing", disable=not show_progress):
        for name in random.Random(index).sample(list(candidates), len(candidates)):
            if prepare is not None:
                prepare(name)
            _synchronise()
            start = time.perf_counter()
            candidates[name]()
            _synchronise()
            if index >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in times.items()}


def compile_module(module: nn.Module, *, cpp_wrapper: bool = False) -> Callable[..., object]:
    """Compile a module as one graph, with a graph cache of its own.

    torch caches graphs by code object and checks the guards of all of them at each call, which
    takes milliseconds if there are many. Here each compiled module has its own code object, so
    candidates that take turns do not slow each other down.

    Args:
        module: The module. It is compiled at the first call.
        cpp_wrapper: Call the kernels of a graph from C++ instead of Python. Compiling takes longer.

    Returns:
        The compiled module, which takes keyword arguments.

    Raises:
        ConfigError: If `torch.compile` does not work here: on a CPU it needs a C++ compiler.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    except RuntimeError as error:
        raise ConfigError(
            "torch.compile does not work on this machine. On a CPU it needs a C++ compiler. "
            "Install one (on Debian and Ubuntu: `apt install g++`)."
        ) from error

    def run(**inputs: object) -> object:
        return module(**inputs)

    code = run.__code__.replace(co_name=f"run_{next(_NUMBERS)}")
    own = FunctionType(code, run.__globals__, closure=run.__closure__)
    options: dict[str, str | int | bool | Callable[..., Any]] = {"cpp_wrapper": cpp_wrapper}
    compiled: Callable[..., object] = torch.compile(own, fullgraph=True, options=options)
    return compiled


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed pages; False on systems without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
