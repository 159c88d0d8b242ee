"""Rows for a training that counts steps: endless, shuffled, and able to start anywhere.

Which row comes at which place is a function of the seed alone. So a resumed run starts at the place
where the interrupted one stopped; rows before it are not encoded again, and of a `Dataset` not even
read.
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
POSITION = "coda_position"  # the place of an example in the training, from 0


class EndlessRows(IterableDataset[dict[str, Any]]):
    """Pass after pass over a data set, each in another order.

    Args:
        rows: A `datasets.Dataset`, shuffled as a whole; or anything else that can be iterated over
            again and again and gives mappings, shuffled within a window.
        encode: Turns columns of rows into columns of model input; None if they are that already.
        seed: Of the order, >= 0.
        window: Rows in memory from which the next one is chosen, >= 1; 1 keeps the order.
        chunk: Rows that are encoded at a time.
        first: Place of the first row.
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
        """Give encoded rows, each with its place, for ever."""
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
        _require_rows(is_any=len(rows) > 0)
        first_epoch, start = divmod(self.first, len(rows))
        for epoch in count(first_epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(len(rows)).tolist()
            for begin in range(start, len(order), self.chunk):
                yield rows[order[begin : begin + self.chunk]]
            start = 0

    def _shuffled(self) -> Iterator[Mapping[str, Any]]:
        """Keep a window of rows and let a random one go for each that comes."""
        for epoch in count():
            rng = np.random.default_rng((self.seed, epoch))
            window: list[Mapping[str, Any]] = []
            for row in self.rows:
                if len(window) < self.window:
                    window.append(row)
                    continue
                place = int(rng.integers(self.window))
                leaving, window[place] = window[place], row
                yield leaving
            _require_rows(is_any=len(window) > 0)
            yield from (window[place] for place in rng.permutation(len(window)))


def _require_rows(*, is_any: bool) -> None:
    if not is_any:
        raise DataError(
            "the data set gave no row. Check the source; an iterator that can be read only once "
            "is no data set, wrap what makes it in datasets.IterableDataset.from_generator."
        )
