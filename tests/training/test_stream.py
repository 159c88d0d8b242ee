from itertools import islice

import datasets
import pytest

from conditional_adapters.training.stream import POSITION, EndlessRows

NUMBERS = [{"n": number} for number in range(10)]


class Stream:
    def __iter__(self):
        return iter(NUMBERS)


SOURCES = [Stream(), datasets.Dataset.from_list(NUMBERS)]


def take(rows, count: int, **options: object) -> list[int]:
    settings = {"seed": 0, "window": 4, "chunk": 3, **options}
    return [row["n"] for row in islice(EndlessRows(rows, **settings), count)]


@pytest.mark.parametrize("rows", SOURCES)
def test_every_pass_has_every_row_in_another_order(rows) -> None:
    numbers = take(rows, 30)
    passes = [numbers[:10], numbers[10:20], numbers[20:]]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert take(rows, 30) == numbers
    assert take(rows, 30, seed=1) != numbers


@pytest.mark.parametrize("rows", SOURCES)
@pytest.mark.parametrize("first", [1, 9, 10, 23])
def test_a_stream_starts_anywhere(rows, first) -> None:
    whole = list(islice(EndlessRows(rows, seed=0, window=4, chunk=3), 40))
    part = list(islice(EndlessRows(rows, seed=0, window=4, chunk=3, first=first), 40 - first))
    assert part == whole[first:]
    assert [row[POSITION] for row in part] == list(range(first, 40))


def test_a_window_of_one_keeps_the_order() -> None:
    assert take(Stream(), 10, window=1) == list(range(10))


def test_a_stream_is_shuffled_within_its_window() -> None:
    numbers = take(Stream(), 10, window=4)
    assert numbers != sorted(numbers)
    assert all(number <= place + 4 for place, number in enumerate(numbers))


@pytest.mark.parametrize("rows", SOURCES)
def test_skipped_rows_are_not_encoded(rows) -> None:
    seen = []

    def encode(columns):
        seen.extend(columns["n"])
        return columns

    stream = EndlessRows(rows, encode, seed=0, window=4, chunk=3, first=24)
    assert len(list(islice(stream, 3))) == 3
    assert len(seen) == 3
