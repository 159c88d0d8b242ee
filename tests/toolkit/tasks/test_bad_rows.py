"""Every bad row is named by its file and line, and can be left out."""

import re
import warnings

import pytest

from conditional_adapters.errors import DataError
from tests.helpers.data_files import (
    REMEDY,
    load_text,
    write_csv,
    write_lines,
    write_parquet,
    write_stored,
)

GOOD = '{"text": "a", "label": "x"}'
# File name, its lines, the number of the one line that is bad, the reason.
BAD_ROWS = {
    "empty text": ("x.csv", ["text,label", "a,x", ",x"], 3, "the text is empty"),
    "blank text": ("x.csv", ["text,label", "a,x", " \t ,x"], 3, "the text is empty"),
    "empty label": ("x.csv", ["text,label", "a,x", "b,"], 3, "the label is empty"),
    "few fields": ("x.csv", ["text,label", "a,x", "b"], 3, "the number of fields is 1, the first"),
    "many fields": ("x.csv", ["text,label", "a,x", "b,x,y"], 3, "the number of fields is 3"),
    "after lines": (
        "x.csv",
        ["text,label", '"a', "b", 'c",x', "", '" ', '",x', "d,x"],
        6,
        "the text is empty",
    ),
    "bad quote": ("x.csv", ["text,label", "a,x", '"b" c,x', "d,x"], 3, "the row is not valid CSV"),
    "open quote": ("x.csv", ["text,label", "a,x", '"b,x', "c,x"], 3, "the row is not valid CSV"),
    "long field": ("x.csv", ["text,label", "a,x", "b" * 131_073 + ",x"], 3, "field larger than"),
    "latin-1": ("x.csv", ["text,label", "a,x", b"caf\xe9,x", "d,x"], 3, "not valid UTF-8 at ch"),
    "latin-1 label": ("x.csv", ["text,label", "a,x", b"b,\xe9"], 3, "the label is not valid UTF-8"),
    "tsv": ("x.tsv", ["text\tlabel", "a\tx", "b,x"], 3, "the number of fields is 1"),
    "bad json": (
        "x.jsonl",
        [GOOD, "", '{"text": '],
        3,
        "the line is not valid JSON (Expecting value: column 9",
    ),
    "cut json": ("x.jsonl", [GOOD, "", '{"text": "a'], 3, "(Unterminated string"),
    "huge number": ("x.jsonl", [GOOD, "", "9" * 5000], 3, "the line is not valid JSON (Exceeds"),
    "too deep": ("x.jsonl", [GOOD, "", "[" * 100_000], 3, "the line is not valid JSON (maximum"),
    "array": ("x.json", [GOOD, "", '["a", "x"]'], 3, "the line is a JSON array"),
    "value": ("x.ndjson", [GOOD, "", "3"], 3, "the line is a JSON single value"),
    "no key": ("x.jsonl", [GOOD, '{"body": 1, "b": 2}'], 2, "no field 'text' (fields: 'body', 'b'"),
    "null text": ("x.jsonl", [GOOD, '{"text": null, "label": 1}'], 2, "the text is missing"),
    "NaN text": ("x.jsonl", [GOOD, '{"text": NaN, "label": 1}'], 2, "the text is missing"),
    "number": ("x.jsonl", [GOOD, '{"text": 5, "label": 1}'], 2, "the text is 5 (int), it must be"),
    "true text": ("x.jsonl", [GOOD, '{"text": true, "label": 1}'], 2, "the text is True (bool)"),
    "null label": ("x.jsonl", [GOOD, '{"text": "b", "label": null}'], 2, "the label is missing"),
    "NaN label": ("x.jsonl", [GOOD, '{"text": "b", "label": NaN}'], 2, "the label is missing"),
    "true label": (
        "x.jsonl",
        [GOOD, '{"text": "b", "label": true}'],
        2,
        "the label is True (bool)",
    ),
    "fraction": ("x.jsonl", [GOOD, '{"text": "b", "label": 0.5}'], 2, "the label is 0.5 (float)"),
    "list label": ("x.jsonl", [GOOD, '{"text": "b", "label": [1]}'], 2, "the label is [1] (list)"),
    "json latin-1": (
        "x.jsonl",
        [GOOD, b'{"text": "\xe9", "label": 1}'],
        2,
        "the text is not valid",
    ),
    "surrogate": ("x.jsonl", [GOOD, r'{"text": "\ud800", "label": 1}'], 2, "the text is not valid"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_stops_with_its_line_and_both_choices(tmp_path, kind):
    name, lines, line, reason = BAD_ROWS[kind]
    path = write_lines(tmp_path / name, *lines)
    with pytest.raises(DataError) as caught:
        load_text(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert reason in message
    assert message.endswith(REMEDY)


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_can_be_left_out_with_a_warning(tmp_path, kind):
    name, lines, line, reason = BAD_ROWS[kind]
    path = write_lines(tmp_path / name, *lines)
    with pytest.warns(UserWarning, match="skipped 1 of ") as caught:
        rows = load_text(path, on_bad_row="skip")
    assert len(caught) == 1
    assert "src/conditional_adapters" not in caught[0].filename  # but the caller
    assert f"{path}: skipped 1 of " in str(caught[0].message)
    assert f"{path}:{line}: " in str(caught[0].message)
    assert reason in str(caught[0].message)
    usable = {"after lines": ["a\nb\nc", "d"], "bad quote": ["a", "d"], "latin-1": ["a", "d"]}
    assert list(rows["text"]) == usable.get(kind, ["a"])


def test_the_warning_counts_all_and_lists_five(tmp_path):
    path = write_lines(tmp_path / "x.csv", "text,label", *["a,x", ",x"] * 7)
    with pytest.warns(UserWarning, match="skipped 7 of ") as caught:
        rows = load_text(path, on_bad_row="skip")
    assert len(rows) == 7
    lines = str(caught[0].message).splitlines()
    assert lines[0] == f"{path}: skipped 7 of 14 rows:"
    assert lines[1:6] == [f"  {path}:{line}: the text is empty" for line in (3, 5, 7, 9, 11)]
    assert lines[6:] == ["  ..."]


def test_rows_after_the_limit_are_not_looked_at(tmp_path):
    path = write_lines(tmp_path / "x.csv", "text,label", "a,x", "b,x", ",x")
    assert list(load_text(path, limit=2)["text"]) == ["a", "b"]


def test_left_out_rows_do_not_count_towards_the_limit(tmp_path):
    path = write_lines(tmp_path / "x.csv", "text,label", ",x", "a,x", "b,x", "c,x")
    with pytest.warns(UserWarning, match="skipped 1 of 3 rows"):
        assert list(load_text(path, limit=2, on_bad_row="skip")["text"]) == ["a", "b"]


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_good_rows_give_no_warning(tmp_path, on_bad_row):
    path = write_csv(tmp_path / "x.csv")
    with warnings.catch_warnings(record=True) as caught:
        load_text(path, on_bad_row=on_bad_row)
    assert not caught


def test_nothing_left_is_an_error_with_the_reasons(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", '{"body": "a"}', '{"body": "b"}')
    expected = rf"(?s)no usable row.*skipped 2 of 2.*{path}:1: .*--text-column.*{path}:2"
    with pytest.raises(DataError, match=expected):
        load_text(path, on_bad_row="skip")


def test_a_missing_label_does_not_matter_where_labels_are_not_wanted(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", '{"text": "a"}', '{"text": "b", "label": true}')
    assert list(load_text(path, require_labels=False)["text"]) == ["a", "b"]


@pytest.mark.parametrize("kind", ["parquet", "stored"])
def test_a_missing_cell_in_a_table_is_named_by_its_row(tmp_path, kind):
    rows = [{"text": "a", "label": 1}, {"text": None, "label": 2}, {"text": "c", "label": None}]
    path = {"parquet": write_parquet, "stored": write_stored}[kind](tmp_path / f"x.{kind}", rows)
    with pytest.raises(DataError, match=re.escape(f"{path}, row 2: the text is missing. {REMEDY}")):
        load_text(path)
    with pytest.warns(
        UserWarning, match=f"(?s)row 2: the text is m.*{path}, row 3: the label is m"
    ):
        rows = load_text(path, on_bad_row="skip")
    assert rows.to_list() == [{"text": "a", "label": 0}]
    assert rows.features["label"].names == ["1"]  # pandas made the label 1.0
