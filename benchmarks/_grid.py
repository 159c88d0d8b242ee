"""The cells of the grid of encoders, and about how long each takes."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks._encoder_models import TYPES, build, lengths_of, make_inputs, prepare
from conditional_adapters.analysis.flops import count_flops

BATCHES, LENGTHS, FACTORS, ROUNDS = [1, 8, 32], [128, 512, 2048], [2, 3, 4, 5, 8], 3


class Cell(NamedTuple):
    """One model at one size and type, all candidates."""

    model: str
    dtype: str
    batch: int
    tokens: int | None  # None: the model has one length

    def key(self, kind: str) -> str:
        """Return the name of the cell in the file of results."""
        return f"{self.model}, {self.dtype}, {self.batch} x {self.tokens or 'native'}, {kind}"


def estimate(
    models: Sequence[str],
    dtypes: Sequence[str],
    batches: Sequence[int],
    lengths: list[int],
    *,
    factors: Sequence[float],
    runs: int,
) -> Iterator[tuple[Cell, float]]:
    """Yield all cells with about how many seconds their forward passes take.

    The dense operations of a row are counted on its shape alone and divided by the speed of one
    large matrix product here. Expect up to twice as much where attention is not fused (T5) and for
    single short rows, and the time to build the models.

    Args:
        models: Names of models.
        dtypes: Names of types.
        batches: Rows.
        lengths: Tokens of texts; those that a model cannot read are left out.
        factors: r, besides dense with and without adapters.
        runs: Rounds, measured or not.

    Yields:
        Cells and seconds, by model.
    """
    speeds = {dtype: _operations_per_second(TYPES[dtype]) for dtype in dtypes}
    # Dense with and without adapters, and each r; all of them once more as floors.
    passes = 2 * runs * (2 + sum(1 / factor for factor in factors))
    for name in models:
        model = build(name, "float32")
        prepare(model, None)
        for tokens in lengths_of(model, lengths):
            with FakeTensorMode(allow_non_fake_inputs=True):
                operations = count_flops(model, make_inputs(model, 1, tokens))
            for batch in batches:
                for dtype in dtypes:
                    seconds = passes * batch * operations / speeds[dtype]
                    yield Cell(name, dtype, batch, tokens), seconds


def _operations_per_second(dtype: torch.dtype) -> float:
    states, weight = torch.randn(2048, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        states @ weight
        times.append(time.perf_counter() - start)
    return 2 * 2048 * 768 * 3072 / sorted(times)[2]
