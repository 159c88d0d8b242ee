"""Every measured number of README and docs is that of the committed results."""

import re

import pytest

from experiments import _report
from scripts import numbers
from tests.helpers import ROOT

PAGES = {str(path.relative_to(ROOT)): path for path in numbers.pages(ROOT)}
VERSION, CONSTANT = "a version", "a constant of the code or of a model"
# Numbers that look measured, and why they need no result.
ALLOWED = {
    "README.md": {"30-second": CONSTANT},
    "docs/choosing-r.md": {"95 %": "a confidence level"},
    "docs/decisions/0003-defaults.md": {"0.02": CONSTANT},
    "docs/demo.md": {"30 seconds": CONSTANT, "127.0": "an address", "0.1": "an address"},
    "docs/guides/serving.md": {"4 %": "experiments/LOG.md, 2026-11-30; the code is gone"},
    "docs/peft.md": dict.fromkeys(("5.23", "5.24", "5.21", "0.22", "3.11", "3.13"), VERSION),
    "docs/seeing-the-routing.md": {
        "1.5": CONSTANT,
        "2.6": "what the picture shows",
        "20 ms": CONSTANT,
    },
    "docs/tasks.md": {"30 seconds": CONSTANT},
}


@pytest.mark.parametrize("name", PAGES)
def test_numbers_are_those_of_the_results(name) -> None:
    text = PAGES[name].read_text()
    assert text == numbers.rewrite(text), "python -m scripts.numbers writes them"
    # Such a line would be a block of HTML, which parts the paragraph.
    assert not re.search(r"^<!-- (?!table:|/ -->)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_numbers_that_look_measured_are_marked(name) -> None:
    allowed = ALLOWED.get(name, {})
    found = numbers.unmarked(PAGES[name].read_text())
    assert [around for number, around in found if number not in allowed] == []
    assert allowed.keys() <= {number for number, _ in found}  # no exception that nothing needs


def test_the_page_of_experiments_is_that_of_the_results(monkeypatch) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_: None)
    assert (ROOT / "docs/experiments.md").read_text() == _report.render_text()


def test_a_mark_is_filled_from_its_result() -> None:
    report = numbers.results()["minilm"]
    (row,) = [row for row in report["rows"] if row["encoder"] == "conditional, r = 4"]
    mark = "<!-- minilm; conditional, r = 4; speed_up; {:.2f}x -->"
    assert numbers.rewrite(f"is {mark}9.99x<!-- / --> faster") == (
        f"is {mark}{row['speed_up']:.2f}x<!-- / --> faster"
    )
    cell = "<!-- bbc-512; r = 4, pretrained; encoder; {} -->"
    assert re.search(r"\d\.\d\dx<!-- / -->$", numbers.rewrite(f"{cell}<!-- / -->"))
    with pytest.raises(KeyError):
        numbers.rewrite("<!-- minilm; conditional, r = 4; sped_up; {} --><!-- / -->")


@pytest.mark.parametrize(
    "text",
    [
        "3.4x faster",
        "0.86 of the ratio",
        "12 ms",
        "97 %",
        "1.1 points",
        "4 times faster",
        "8 minutes",
    ],
)
def test_numbers_that_look_measured_are_found(text) -> None:
    assert len(numbers.unmarked(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "r = 4",
        "`3.4x`",
        "torch 2.13 or 2.14",
        "$0.5x$",
        "<!-- minilm; {} -->3.4x<!-- / -->",
        "8 x 512",
    ],
)
def test_other_numbers_are_not(text) -> None:
    assert numbers.unmarked(text) == []
