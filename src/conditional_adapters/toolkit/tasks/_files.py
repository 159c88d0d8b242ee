"""Readers of CSV, TSV, JSON lines, Parquet and plain text files, row by row.

A message must name the line of a damaged record, and only that record may be lost. The readers of
pandas and pyarrow support neither, so text files go through the standard library. Bytes that are
not UTF-8 become surrogates (`surrogateescape`): reading continues, and the check of a cell finds
them.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from ...errors import DataError
from ._table import Row, Table, class_names


def open_file(path: Path) -> Table:
    """Open a file by its extension; a Parquet file may bring class names."""
    opener = FILE_OPENERS.get(path.suffix.lower())
    if opener is None:
        raise DataError(
            f"{path} has the extension {path.suffix!r}. Supported are {', '.join(FILE_OPENERS)}."
            " Convert the file, or rename it if it has one of these formats."
        )
    return opener(path)


def _open_csv(path: Path, *, delimiter: str) -> Table:
    header = next(_csv_records(path, delimiter), None)
    if header is None:
        raise DataError(f"{path} is empty. Its first line must name the columns.")
    _, columns, problem = header
    try:
        "".join(columns).encode()
    except UnicodeEncodeError:
        problem = "it is not UTF-8; save the file with that encoding"
    if not problem and len(set(columns)) < len(columns):
        problem = f"two columns have the same name ({', '.join(columns)})"
    if problem:
        raise DataError(f"{path} has an unusable first line: {problem}.")
    read = partial(_read_csv, path, delimiter)
    return Table(read=read, columns=columns, folder=path.parent)


def _read_csv(path: Path, delimiter: str, _columns: Sequence[str]) -> Iterator[Row]:
    records = _csv_records(path, delimiter)
    _, header, _ = next(records)
    for line, record, problem in records:
        if not problem and len(record) != len(header):
            problem = f"the number of fields is {len(record)}, the first line has {len(header)}"
        cells = {} if problem else dict(zip(header, record, strict=True))
        yield Row(f"{path}:{line}", cells, problem)


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield for each record its first line, its fields, and its problem, if any."""
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                record = next(reader, None)
            except csv.Error as error:  # the reader continues at the next line
                yield line, [], f"the row is not valid CSV ({error}; is a quote not closed?)"
                continue
            if record is None:
                return
            if record:  # a blank line is no record
                yield line, record, ""


def _open_text(path: Path) -> TextIO:
    """Open a text file, with or without a byte order mark; line endings are not converted."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _open_lines(
    path: Path, *, parse: Callable[[str, str], Row], columns: Sequence[str] | None = None
) -> Table:
    read = partial(_read_lines, path, parse)
    return Table(read=read, columns=columns, folder=path.parent)


def _read_lines(
    path: Path, parse: Callable[[str, str], Row], _columns: Sequence[str]
) -> Iterator[Row]:
    """Parse every line that is not blank."""
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse(f"{path}:{number}", line)


def _text_row(place: str, line: str) -> Row:
    return Row(place, {"text": line.strip()})


def _json_row(place: str, line: str) -> Row:
    try:
        cells = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        reason = str(error).replace("line 1 ", "")  # json counts lines within this one
        return Row(place, {}, f"the line is not valid JSON ({reason}); each line is one object")
    if not isinstance(cells, Mapping):
        kind = "array" if isinstance(cells, list) else "single value"
        return Row(place, {}, f'the line is a JSON {kind}, it must be an object {{"name": ...}}')
    return Row(place, cells)


def _open_parquet(path: Path) -> Table:
    """Open a Parquet file; reads only its schema."""
    import datasets
    import pyarrow.parquet as parquet

    try:
        features = datasets.Features.from_arrow_schema(parquet.read_schema(path))
    except (OSError, ValueError) as error:
        raise _damaged_parquet(path, error) from error
    return Table(
        read=partial(_read_parquet, path),
        columns=list(features),
        class_names=class_names(features),
        folder=path.parent,
    )


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Stream the given columns; one batch is in memory at a time."""
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", cells)
    except (OSError, ValueError) as error:
        raise _damaged_parquet(path, error) from error


def _damaged_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a Parquet file or is damaged ({error}). Write it again.")


FILE_OPENERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": partial(_open_csv, delimiter=","),
    ".tsv": partial(_open_csv, delimiter="\t"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), partial(_open_lines, parse=_json_row)),
    ".parquet": _open_parquet,
    ".txt": partial(_open_lines, parse=_text_row, columns=("text",)),
}
