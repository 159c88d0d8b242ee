"""Write the measured numbers of README and docs from results: `python -m scripts.numbers`.

Measured numbers and tables stand between HTML comments, which readers do not see:

- a number: `<!-- minilm; conditional, r = 4; speed_up; {:.2f}x -->3.43x<!-- / -->`. The comment has
  a file of benchmarks/results or an experiment, keys, and a format.
- a table: `<!-- table: NAME -->`, Markdown, `<!-- / -->`. `TABLES` has the names.

tests/documents/test_numbers.py holds every page to the results and finds numbers that look
measured but are not marked.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments._config import experiment_names
from experiments._tables import Line
from experiments._tables import table as experiment_lines
from scripts import _benchmark_tables
from scripts._encoder_tables import table
from scripts.benchmark_page import read_results

# These pages are generated as a whole.
GENERATED = ("docs/benchmarks.md", "docs/experiments.md", "docs/support-matrix.md")
_MARK = re.compile(r"<!-- (?P<what>[^<>]*?) -->(?P<text>(?:(?!<!--).)*?)<!-- / -->", re.DOTALL)
# Numbers in code, formulas, links, comments and versions are not measured.
_NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|<!--.*?-->|arXiv:\S+|Apache-2\.0"
    r"|\b(?:transformers|torch|peft|Python|PyTorch|ONNX Runtime|torchao|wav2vec|SQuAD|Triton)"
    r",? [\d.]+(?:(?:,| and| or| to) [\d.]+)*",
    re.DOTALL,
)
_MEASURED = re.compile(
    r"[-+]?\d[\d,]*\.\d+|\d[\d,.]*(?:x\b| ?%| ?ms\b| ?MB\b| ?GB\b| ?GFLOP"
    r"|[ -](?:seconds?|minutes?|milliseconds|points?|times)\b)"
)


def pages(root: Path) -> list[Path]:
    """README and all pages of the documentation that are not generated."""
    generated = {root / name for name in GENERATED}
    return [root / "README.md", *sorted(set((root / "docs").rglob("*.md")) - generated)]


def rewrite(text: str) -> str:
    """Replace marked numbers and tables by those of the results.

    Args:
        text: A page in Markdown.

    Returns:
        The page, changed where results have changed.

    Raises:
        KeyError: If a mark names a result that does not exist.
    """
    return _MARK.sub(lambda mark: f"<!-- {mark['what']} -->{_render(mark['what'])}<!-- / -->", text)


def unmarked(text: str) -> list[tuple[str, str]]:
    """Numbers of a page that look measured and are not marked.

    Args:
        text: A page in Markdown.

    Returns:
        Each number with the words around it.
    """
    prose = _NOT_PROSE.sub(" ", _MARK.sub(" ", text))
    return [
        (found[0], " ".join(prose[max(found.start() - 40, 0) : found.end() + 25].split()))
        for found in _MEASURED.finditer(prose)
    ]


def _render(what: str) -> str:
    kind, _, name = what.partition(": ")
    if kind == "table":
        return f"\n\n{TABLES[name]()}\n\n"
    source, *keys, form = (part.strip() for part in what.split(";"))
    if source in experiment_names():
        row, column = keys
        return form.format(_line(source, row)[column])
    value: Any = results()[source]
    for key in keys:
        value = _enter(value, key)
    return form.format(_enter(value, "median") if isinstance(value, Mapping) else value)


def _enter(value: Any, key: str) -> Any:  # noqa: ANN401
    """The entry of a mapping, below "results" if it has some, or the row of an encoder."""
    if isinstance(value, list):
        return next(row for row in value if row["encoder"] == key)
    if key not in value and "results" in value:
        value = value["results"]
    return _enter(value["rows"], key) if key not in value and "rows" in value else value[key]


@cache
def results() -> dict[str, dict[str, Any]]:
    """The committed reports of all benchmarks."""
    return read_results()


@cache
def _lines(experiment: str) -> list[Line]:
    return experiment_lines(experiment)


def _line(experiment: str, method: str) -> Line:
    """The row of a method in the tables of an experiment."""
    return next(line for line in _lines(experiment) if line["method"] == method)


def _bbc() -> str:
    columns = ("accuracy", "difference", "encoder", "compiled", "step")
    heads = (
        "method",
        "accuracy",
        "difference in points (95 %)",
        "encoder",
        "both compiled",
        "step",
    )
    methods = ("dense adapters", *(f"r = {r}, pretrained" for r in (4, 8, 16)))
    lines = [_line("bbc-512", method) for method in methods]
    return table(heads, [(line["method"], *(line[column] for column in columns)) for line in lines])


def _images_and_speech() -> str:
    rows = [
        ("fashion", "dense adapters", "accuracy"),
        ("fashion", "r = 8, strided", "accuracy"),
        ("fashion", "r = 8, strided, all pretrained", "accuracy"),
        ("whisper", "dense adapters", "word error rate (lower is better)"),
        ("whisper", "r = 4, pretrained", "word error rate (lower is better)"),
    ]
    titles = {"fashion": "DINOv2-S, Fashion-MNIST", "whisper": "Whisper tiny.en, telephone prompts"}
    cells = []
    for experiment, method, quality in rows:
        line = _line(experiment, method)
        name = quality.partition(" (")[0]
        measured = (f"{name} {line[quality]}", line["difference"], line["encoder"])
        cells.append((titles[experiment], method, *measured))
    heads = ("model, data", "method", "quality", "difference in points (95 %)", "encoder")
    return table(heads, cells)


def _one_text() -> str:
    """Latency of one text of 512 tokens in BERT-base, with prepacked weights and without."""
    kinds = {
        "float32, forward": "float32",
        "float32, packed forward": "float32, prepacked",
        "float32, packed compiled forward": "float32, prepacked, compiled",
        "bfloat16, forward": "bfloat16",
        "bfloat16, packed compiled forward": "bfloat16, prepacked, compiled",
    }
    rows = []
    for kind, title in kinds.items():
        dtype, forward = kind.split(", ")
        cell = results()["encoders"][f"bert-base, {dtype}, 1 x 512, {forward}"]["results"]
        dense, routed = cell["dense + adapter"], cell["conditional, r = 4"]
        times = (f"{row['milliseconds']['median']:.0f} ms" for row in (dense, routed))
        rows.append((title, *times, f"{routed['times_faster']:.2f}x"))
    return table(("one text of 512 tokens", "dense adapters", "r = 4", "speed-up"), rows)


def _shares() -> str:
    """Speed-up and FLOP ratio at r = 4, from one short text to large batches."""
    shapes = {
        "packaged-minilm": ("1 x 128", "8 x 512"),
        "bert-base": ("1 x 128", "1 x 512", "8 x 512", "8 x 2048"),
    }
    names = {"packaged-minilm": "MiniLM", "bert-base": "BERT-base"}
    rows = []
    for model, sizes in shapes.items():
        for size in sizes:
            row = [f"{names[model]}, {size}"]
            for dtype in ("float32", "bfloat16"):
                cell = results()["encoders"][f"{model}, {dtype}, {size}, forward"]
                found = cell["results"]["conditional, r = 4"]
                row.append(f"{found['times_faster']:.2f}x")
            rows.append((*row, f"{found['flop_ratio']:.2f}x"))
    return table(("encoder, batch x tokens", "float32", "bfloat16", "FLOP ratio"), rows)


def _gpu() -> str:
    """Speed-ups at r = 4 on a GPU, eager and as CUDA graphs."""
    rows = []
    for name, parts in results()["gpu"]["results"].items():
        if "CUDA graph" in parts:
            found = [parts[mode]["r = 4, triton"] for mode in ("eager", "CUDA graph")]
            times = (f"{row['times_faster']:.2f}x" for row in found)
            rows.append((name.removesuffix(", forward"), *times, f"{found[1]['flop_ratio']:.2f}x"))
    return table(("encoder, batch x tokens", "eager", "CUDA graph", "FLOP ratio"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "BBC News": _bbc,
    "images and speech": _images_and_speech,
    "MiniLM": lambda: _benchmark_tables.minilm_table(results()["minilm"]),
    "one text": _one_text,
    "speed-ups at r = 4": _shares,
    "GPU": _gpu,
    "Conformers": lambda: _benchmark_tables.conformer_table(results()["conformer"]),
}


def main() -> None:
    """Rewrite all pages; print those that changed."""
    for path in pages(Path()):
        text = path.read_text()
        if (written := rewrite(text)) != text:
            path.write_text(written)
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
