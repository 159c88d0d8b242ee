"""An endless, shuffled stream of encoded examples that can start at any position.

The example at each position depends on the seed alone. A resumed run therefore starts at the
position where the interrupted one stopped. Earlier rows are not encoded again, and those of a
`Dataset` are not even read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset

from ..errors import DataError

if TYPE_CHECKING:
    import datasets

Columns = Mapping[str, Sequence[Any]]
POSITION = "coda_position"  # key of an example's position in the training, from 0


class EndlessRows(IterableDataset[dict[str, Any]]):
    """Epoch after epoch of a data set, each in a different order.

    Args:
        rows: A `datasets.Dataset`, shuffled as a whole; or any iterable of mappings that can be
            iterated over repeatedly, shuffled within a window.
        encode: Turns columns of rows into columns of model input; None if no encoding is needed.
        seed: Seed of the order, >= 0.
        window: Rows in memory from which the next one is drawn, >= 1; 1 keeps the order.
        chunk: Rows to encode at a time.
        first: Position of the first example.
    """

    def __init__(
        self,
        rows: "datasets.Dataset | Iterable[Mapping[str, Any]]",
        encode: Callable[[Columns], Columns] | None = None,
        *,
        seed: int,
        window: int,
        chunk: int,
        first: int = 0,
    ) -> None:
        self.rows, self.encode = rows, encode
        self.seed, self.window, self.chunk, self.first = seed, window, chunk, first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield encoded examples with their positions, without end."""
        position = self.first
        for columns in self._chunks():
            encoded = columns if self.encode is None else self.encode(columns)
            for values in zip(*encoded.values(), strict=True):
                yield {**dict(zip(encoded, values, strict=True)), POSITION: position}
                position += 1

    def _chunks(self) -> Iterator[Columns]:
        import datasets

        if isinstance(self.rows, datasets.Dataset):
            yield from self._stored_chunks(self.rows)
        stream = islice(self._shuffled(), self.first, None)
        while chunk := list(islice(stream, self.chunk)):
            yield {name: [row[name] for row in chunk] for name in chunk[0]}

    def _stored_chunks(self, rows: "datasets.Dataset") -> Iterator[Columns]:
        _refuse_empty(len(rows))
        first_epoch, start = divmod(self.first, len(rows))
        for epoch in count(first_epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(len(rows)).tolist()
            for begin in range(start, len(order), self.chunk):
                yield rows[order[begin : begin + self.chunk]]
            start = 0

    def _shuffled(self) -> Iterator[Mapping[str, Any]]:
        """Keep a window of rows; each new row replaces a random one, which is yielded."""
        for epoch in count():
            rng = np.random.default_rng((self.seed, epoch))
            window: list[Mapping[str, Any]] = []
            for row in self.rows:
                if len(window) < self.window:
                    window.append(row)
                    continue
                index = int(rng.integers(self.window))
                yield window[index]
                window[index] = row
            _refuse_empty(len(window))
            yield from (window[index] for index in rng.permutation(len(window)))


def _refuse_empty(num_rows: int) -> None:
    if not num_rows:
        raise DataError(
            "the data set has no rows. Check the source. An iterator that can be read only once is "
            "not a data set: wrap its source in datasets.IterableDataset.from_generator."
        )
