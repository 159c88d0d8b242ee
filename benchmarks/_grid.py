"""The cells of the grid of encoders, with an estimate of their time."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks._encoder_models import TYPES, build, lengths_of, make_inputs, prepare
from conditional_adapters.analysis.flops import count_flops

BATCHES, LENGTHS, FACTORS = [1, 8, 32], [128, 512, 2048], [2, 3, 4, 5, 8]
_FEWEST, _MOST, _SECONDS = 3, 41, 30  # rounds of a cell, and their time


class Cell(NamedTuple):
    """One model, batch, length and type."""

    model: str
    dtype: str
    batch: int
    tokens: int | None  # None: fixed by the model
    rounds: int  # measured; one more warms up

    def key(self, kind: str) -> str:
        """Name of the cell in the result file."""
        return f"{self.model}, {self.dtype}, {self.batch} x {self.tokens or 'native'}, {kind}"


def estimate(
    models: Sequence[str],
    dtypes: Sequence[str],
    batches: Sequence[int],
    lengths: list[int],
    *,
    factors: Sequence[float],
    rounds: int | None,
) -> Iterator[tuple[Cell, float]]:
    """Yield all cells with an estimate of the seconds of their forward passes.

    The estimate divides the dense operations by the speed of one large matrix product on this
    machine. Cells take up to twice as long where attention is not fused (T5) and for single short
    texts, and building the models takes time as well.

    Args:
        models: Names of models.
        dtypes: Names of types.
        batches: Batch sizes.
        lengths: Lengths of texts; lengths that a model cannot read are skipped.
        factors: Reduction factors, besides dense with and without adapters.
        rounds: Measured rounds of each cell; None: as many as fit 30 seconds, 3 to 41.

    Yields:
        Cells and seconds, by model.
    """
    speeds = {dtype: _operations_per_second(TYPES[dtype]) for dtype in dtypes}
    # Dense with and without adapters and each r, and the lower bound of each.
    passes = 2 * (2 + sum(1 / factor for factor in factors))
    for name in models:
        model = build(name, "float32")
        prepare(model, None)
        for tokens in lengths_of(model, lengths):
            with FakeTensorMode(allow_non_fake_inputs=True):
                operations = count_flops(model, make_inputs(model, 1, tokens))
            for batch in batches:
                for dtype in dtypes:
                    seconds = passes * batch * operations / speeds[dtype]
                    fitting = min(max(int(_SECONDS / seconds), _FEWEST), _MOST)
                    cell = Cell(name, dtype, batch, tokens, rounds or fitting)
                    yield cell, (1 + cell.rounds) * seconds


def _operations_per_second(dtype: torch.dtype) -> float:
    states, weight = torch.randn(2048, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        states @ weight
        times.append(time.perf_counter() - start)
    return 2 * 2048 * 768 * 3072 / sorted(times)[2]
