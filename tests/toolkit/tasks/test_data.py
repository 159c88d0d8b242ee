"""Every format gives the same rows and the same classes."""

import re

import datasets
import pyarrow.parquet
import pytest

from conditional_adapters.errors import DataError
from tests.helpers.data_files import (
    FORMATS,
    NUMBERS,
    REMEDY,
    ROWS,
    TEXTS,
    load_text,
    write_csv,
    write_json_lines,
    write_lines,
    write_parquet,
)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    FORMATS[name](tmp_path / name)
    rows = load_text(tmp_path / name)
    assert rows.features == datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    assert list(rows["text"]) == TEXTS
    assert list(rows["label"]) == NUMBERS


@pytest.mark.parametrize("name", FORMATS)
def test_limit_takes_the_first_rows_and_labels_are_optional(tmp_path, name):
    FORMATS[name](tmp_path / name)
    rows = load_text(tmp_path / name, limit=2, require_labels=False)
    assert rows.column_names == ["text"]
    assert list(rows["text"]) == TEXTS[:2]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "stored"])
def test_columns_may_have_other_names(tmp_path, name):
    other = [{"id": 7, "body": row["text"], "stars": row["label"]} for row in ROWS]
    writer = FORMATS[name]
    writer(tmp_path / name, other)
    rows = load_text(tmp_path / name, text_column="body", label_column="stars")
    assert rows.column_names == ["text", "label"]
    assert list(rows["text"]) == TEXTS
    assert list(rows["label"]) == NUMBERS


def test_a_long_file_is_read_completely_and_in_order(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(2500)]
    loaded = load_text(write_csv(tmp_path / "long.csv", rows))
    assert list(loaded["text"]) == [row["text"] for row in rows]
    assert list(loaded["label"]) == [row["label"] for row in rows]


def test_a_changed_file_is_read_again(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet")
    load_text(path)
    write_parquet(path, ROWS[:2])
    assert list(load_text(path)["text"]) == TEXTS[:2]


def test_a_saved_set_with_splits_needs_one_of_them(tmp_path):
    part = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=part, test=part.select([1])).save_to_disk(tmp_path / "both")
    assert list(load_text(tmp_path / "both", split="test")["text"]) == TEXTS[1:2]
    with pytest.raises(DataError, match=r"has several splits.*--split: train, test"):
        load_text(tmp_path / "both")
    with pytest.raises(DataError, match=r"has no split 'dev'.*train, test"):
        load_text(tmp_path / "both", split="dev")


def test_the_only_split_needs_no_name(tmp_path):
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "one")
    assert len(load_text(tmp_path / "one")) == len(ROWS)


@pytest.mark.parametrize("name", ["rows.csv", "stored"])
def test_a_split_is_refused_where_there_is_none(tmp_path, name):
    FORMATS[name](tmp_path / name)
    with pytest.raises(DataError, match=f"{name} has no splits, got --split train"):
        load_text(tmp_path / name, split="train")


def test_a_format_set_on_a_saved_set_is_ignored(tmp_path):
    rows = [{"text": "a", "label": 7}]
    datasets.Dataset.from_list(rows).with_format("numpy").save_to_disk(tmp_path / "numpy")
    assert load_text(tmp_path / "numpy").to_list() == [{"text": "a", "label": 0}]


@pytest.mark.parametrize(
    "labels, names, numbers",
    [
        ([10, 9, 2, -1], ["-1", "2", "9", "10"], [3, 2, 1, 0]),
        (["b", "a", "10", "9"], ["10", "9", "a", "b"], [3, 2, 0, 1]),
        ([2.0, 1, "1", " 2 "], ["1", "2"], [1, 0, 0, 1]),
    ],
)
def test_classes_are_sorted_as_numbers_or_else_as_names(tmp_path, labels, names, numbers):
    rows = [{"text": "x", "label": label} for label in labels]
    loaded = load_text(write_json_lines(tmp_path / "x.jsonl", rows))
    assert loaded.features["label"].names == names
    assert list(loaded["label"]) == numbers


def test_numbers_in_csv_and_parquet_are_the_same_classes(tmp_path):
    rows = [{"text": "x", "label": number} for number in (10, 9, 2)]
    text_file = load_text(write_csv(tmp_path / "x.csv", rows))
    parquet = load_text(write_parquet(tmp_path / "x.parquet", rows))
    assert text_file.features == parquet.features
    assert list(text_file["label"]) == list(parquet["label"]) == [2, 1, 0]


def test_given_labels_fix_the_order(tmp_path):
    rows = load_text(write_csv(tmp_path / "x.csv"), labels=["pos", "unused", "neg"])
    assert rows.features["label"].names == ["pos", "unused", "neg"]
    assert list(rows["label"]) == [0, 2, 2, 0, 2]


def test_an_unknown_label_is_a_bad_row_that_lists_the_known_ones(tmp_path):
    path = write_lines(tmp_path / "x.csv", "text,label", "a,pos", "b,pso")
    expected = f"{path}:3: the label 'pso' is not one of the known labels: neg, pos. {REMEDY}"
    with pytest.raises(DataError, match=re.escape(expected)):
        load_text(path, labels=["neg", "pos"])
    with pytest.warns(UserWarning, match=re.escape(f"{path}: skipped 1 of 2 rows")):
        assert list(load_text(path, labels=["neg", "pos"], on_bad_row="skip")["label"]) == [1]


@pytest.mark.parametrize("kind", ["stored", "parquet"])
def test_class_names_of_the_source_are_kept_and_can_be_reordered(tmp_path, kind):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a", "m"])}
    )
    source = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 2]}, features=features)
    path = tmp_path / f"set.{kind}"
    if kind == "stored":
        source.save_to_disk(path)
    else:
        source.to_parquet(path)
    kept = load_text(path)
    assert kept.features["label"].names == ["z", "a", "m"]
    assert list(kept["label"]) == [0, 2]
    assert list(load_text(path, labels=["m", "a", "z"])["label"]) == [2, 0]


def test_unlabelled_and_impossible_class_numbers_are_bad_rows(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    numbers = [1, -1, None]
    path = tmp_path / "stored"
    source = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": numbers}, features)
    source.save_to_disk(path)
    with pytest.warns(UserWarning, match=r"(?s)row 2: the label is missing.*row 3: the label is m"):
        assert list(load_text(path, on_bad_row="skip")["label"]) == [1]
    # `datasets` refuses to write 2 itself; a table made elsewhere can hold it.
    table = source.data.table.set_column(1, source.data.schema.field(1), [[1, 2, 0]])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"x.parquet, row 2: the label is 2, it must be between 0 a"
    ):
        load_text(tmp_path / "x.parquet")
