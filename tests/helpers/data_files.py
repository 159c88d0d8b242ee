"""The same five rows as a file of every kind, and short ways to load them."""

import csv
import io
import json

import datasets
import pandas
import PIL.Image

from conditional_adapters.toolkit.tasks.data import DataSpec, load_rows

TEXTS = [
    "good, really",
    'she said "no"',
    "three\nlines\r\nhere",
    "Žluťoučký 🐎\u2028x",
    "  blanks kept ",
]
LABELS = ["pos", "neg", "neg", "pos", "neg"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
NUMBERS = [1, 0, 0, 1, 0]  # neg, pos in alphabetical order
# The end of every message about a bad row.
REMEDY = "Fix the row, or pass --on-bad-row skip to skip bad rows."


def write_csv(path, rows=ROWS, *, delimiter=",", line_end="\n", encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter, lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json_lines(path, rows=ROWS):
    # One file keeps unicode as it is, the lines are joined by hand: an independent writer.
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def write_parquet(path, rows=ROWS):
    pandas.DataFrame(rows).to_parquet(path)
    return path


def write_stored(path, rows=ROWS):
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


FORMATS = {
    "rows.csv": write_csv,
    "rows.tsv": lambda path: write_csv(path, delimiter="\t"),
    "crlf.csv": lambda path: write_csv(path, line_end="\r\n"),
    "bom.csv": lambda path: write_csv(path, encoding="utf-8-sig"),
    "UPPER.CSV": write_csv,
    "rows.jsonl": write_json_lines,
    "rows.ndjson": write_json_lines,
    "rows.json": write_json_lines,
    "rows.parquet": write_parquet,
    "stored": write_stored,
}


def load_text(source, *, labels=None, require_labels=True, **fields):
    spec = DataSpec(source=str(source), **fields)
    return load_rows(spec, modality="text", labels=labels, require_labels=require_labels)


def load_images(source, *, labels=None, require_labels=True, **fields):
    spec = DataSpec(source=str(source), **fields)
    return load_rows(spec, modality="image", labels=labels, require_labels=require_labels)


def write_lines(path, *lines):
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return path


def png(color, size=(4, 3), mode="RGB"):
    buffer = io.BytesIO()
    PIL.Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()
