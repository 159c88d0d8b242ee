"""Images come from folders and tables alike, are checked once, and stay encoded."""

import io
import re
import struct

import datasets
import numpy as np
import PIL.Image
import pytest

from conditional_adapters.errors import DataError
from tests.helpers.data_files import (
    REMEDY,
    load_images,
    load_text,
    png,
    write_csv,
    write_lines,
    write_parquet,
)

COLORS = {"cat/1.png": (255, 0, 0), "cat/2.png": (0, 255, 0), "dog/1.png": (0, 0, 255)}


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    for name, color in COLORS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(color))
    (folder / "dog" / "notes.txt").write_text("no image")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "1.png").write_bytes(png(0))
    return folder


def colors(rows):
    assert all(image.mode == "RGB" and image.size == (4, 3) for image in rows["image"])
    return [image.getpixel((0, 0)) for image in rows["image"]]


def test_an_image_folder_equals_what_datasets_reads_from_it(pets, tmp_path):
    rows = load_images(pets)
    oracle = datasets.load_dataset(
        "imagefolder", data_dir=str(pets), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.features["label"].names == oracle.features["label"].names == ["cat", "dog"]
    assert list(rows["label"]) == list(oracle["label"]) == [0, 0, 1]
    assert colors(rows) == colors(oracle) == list(COLORS.values())


def test_an_image_folder_stays_on_disk(pets):
    stored = load_images(pets).cast_column("image", datasets.Image(decode=False))["image"]
    assert [cell["path"] for cell in stored] == [str(pets / name) for name in COLORS]
    assert all(cell["bytes"] is None for cell in stored)


def test_an_image_folder_is_read_from_another_directory_too(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = load_images("pets")
    monkeypatch.chdir(pets)
    assert colors(rows) == list(COLORS.values())


def test_all_folders_are_classes_even_below_the_limit(pets):
    rows = load_images(pets, limit=1)
    assert rows.features["label"].names == ["cat", "dog"]
    assert colors(rows) == [(255, 0, 0)]


def test_numbered_class_folders_are_in_order_of_number(tmp_path):
    for number in (10, 9):
        (tmp_path / "digits" / str(number)).mkdir(parents=True)
        (tmp_path / "digits" / str(number) / "x.png").write_bytes(png(number))
    assert load_images(tmp_path / "digits").features["label"].names == ["9", "10"]


def test_splits_of_an_image_folder_are_named_and_chosen(pets, tmp_path):
    (tmp_path / "sets").mkdir()
    pets.rename(tmp_path / "sets" / "train")
    with pytest.raises(DataError, match=r"Its folders: train. If these are splits.*--split"):
        load_images(tmp_path / "sets")
    assert colors(load_images(tmp_path / "sets", split="train")) == list(COLORS.values())
    with pytest.raises(DataError, match=r"There is no folder .*dev"):
        load_images(tmp_path / "sets", split="dev")


def test_loose_images_need_no_class_only_without_labels(tmp_path):
    (tmp_path / "a.png").write_bytes(png((1, 2, 3)))
    assert colors(load_images(tmp_path, require_labels=False)) == [(1, 2, 3)]
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'a.png'}: the label is missing.")):
        load_images(tmp_path)


def torn_png():
    """A picture of several chunks; the name of the second one is damaged."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).save(buffer, "PNG")
    head, first, second, *rest = buffer.getvalue().split(b"IDAT")
    return b"IDAT".join([head, first + b"\xcf\xfb\xfa\xfa" + second, *rest])


def huge_bmp():
    """A small file that says of itself that it has 900 million pixels."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 3)).save(buffer, "BMP")
    return buffer.getvalue()[:18] + struct.pack("<ii", 30_000, 30_000) + buffer.getvalue()[26:]


BAD_IMAGES = {
    "text": (b"no image", "the image cannot be read (no image, or of an unknown format)"),
    "empty": (b"", "the image cannot be read (no image, or of an unknown format)"),
    "truncated": (png(0, (64, 64))[:-30], "the image cannot be read ("),
    "torn": (torn_png(), "the image cannot be read (broken PNG file"),
    "huge": (huge_bmp(), "the image cannot be read (Image size (900000000 pixels) exceeds limit"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_an_unreadable_image_is_named_by_its_file(pets, kind):
    content, reason = BAD_IMAGES[kind]
    (pets / "cat" / "1.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_images(pets)
    assert str(caught.value).startswith(f"{pets / 'cat' / '1.png'}: {reason}")
    assert str(caught.value).endswith(REMEDY)
    with pytest.warns(UserWarning, match="skipped 1 of 3 rows"):
        rows = load_images(pets, on_bad_row="skip")
    assert colors(rows) == [(0, 255, 0), (0, 0, 255)]
    assert list(rows["label"]) == [0, 1]


@pytest.mark.parametrize("kind", ["stored", "parquet"])
def test_images_inside_a_table_are_checked_and_keep_their_labels(tmp_path, kind):
    features = datasets.Features(
        {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    cells = [png((255, 0, 0)), b"no image", png(7, mode="L"), None]
    pictures = [cell and {"bytes": cell, "path": "same.png"} for cell in cells]
    source = datasets.Dataset.from_dict(
        {"picture": pictures, "label": [1, 0, 0, 1]}, features=features
    )
    path = tmp_path / f"x.{kind}"
    if kind == "stored":
        source.save_to_disk(path)
    else:
        source.to_parquet(path)
    with pytest.raises(DataError, match=f"x.{kind}, row 2: the image cannot be read"):
        load_images(path, image_column="picture")
    with pytest.warns(
        UserWarning, match=r"(?s)row 2: the image cannot.*row 4: the image is missing"
    ):
        rows = load_images(path, image_column="picture", on_bad_row="skip")
    assert colors(rows) == [(255, 0, 0), (7, 7, 7)]
    assert list(rows["label"]) == [1, 0]
    assert bool(rows.cache_files) == (kind == "stored")  # still mapped from the disk
    assert len(load_images(path, image_column="picture", limit=1, on_bad_row="skip")) == 1


def test_a_table_may_name_image_files_beside_it(pets):
    rows = [{"file": name, "kind": name[:3]} for name in COLORS] + [{"file": "no.png", "kind": "x"}]
    path = write_csv(pets / "index.csv", rows)
    columns = {"image_column": "file", "label_column": "kind"}
    with pytest.raises(
        DataError, match=re.escape(f"{path}:5: the image cannot be read ([Errno 2]")
    ):
        load_images(path, **columns)
    loaded = load_images(path, limit=3, **columns)
    assert colors(loaded) == list(COLORS.values())
    assert list(loaded["label"]) == [0, 0, 1]


@pytest.mark.parametrize(
    "cell, reason",
    [
        ("null", "the image is missing"),
        ('" "', "the image is empty"),
        ("5", "the image is 5 (int), it must be a path or the bytes of a file"),
    ],
)
def test_an_image_cell_that_is_no_file_is_a_bad_row(tmp_path, cell, reason):
    path = write_lines(tmp_path / "x.jsonl", f'{{"image": {cell}, "label": 1}}')
    with pytest.raises(DataError, match=re.escape(f"{path}:1: {reason}. {REMEDY}")):
        load_images(path)


def test_nothing_is_written_anywhere_near_the_data(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "x.csv")
    write_parquet(tmp_path / "x.parquet")
    load_images(pets).save_to_disk(tmp_path / "stored")
    before = sorted(tmp_path.rglob("*"))
    for source in ("x.csv", "x.parquet"):
        load_text(source)
    for source in ("pets", "stored"):
        load_images(source, limit=2)
    assert sorted(tmp_path.rglob("*")) == before
