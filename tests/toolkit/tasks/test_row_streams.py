"""Rows that are read again in every pass."""

import datasets
import numpy as np
import PIL.Image
import pytest

from conditional_adapters.errors import DataError
from conditional_adapters.toolkit.tasks.data import DataSpec, load_rows, stream_rows
from tests.helpers.data_files import FORMATS, TEXTS


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_gives_the_rows_of_every_format_twice(tmp_path, name):
    FORMATS[name](tmp_path / name)
    stream = stream_rows(DataSpec(source=str(tmp_path / name)), modality="text")
    for _ in range(2):
        assert list(stream) == [{"text": text} for text in TEXTS]


def test_lines_of_a_text_file_are_rows_and_blank_ones_are_not(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("  one \n\ntwo\r\nthree")
    spec = DataSpec(source=str(path))
    assert [row["text"] for row in stream_rows(spec, modality="text")] == ["one", "two", "three"]
    assert list(load_rows(spec, modality="text", require_labels=False)["text"])[2] == "three"
    with pytest.raises(DataError, match="has no column 'label'"):
        load_rows(spec, modality="text")


def test_images_come_decoded_and_the_limit_holds(tmp_path):
    for index in range(3):
        pixels = np.full((4, 4), 40 * index, dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    rows = list(stream_rows(DataSpec(source=str(tmp_path), limit=2), modality="image"))
    assert [row["image"].mode for row in rows] == ["RGB", "RGB"]
    assert rows[1]["image"].getpixel((0, 0)) == (40, 40, 40)


def test_a_stored_data_set_is_streamed_as_well(tmp_path):
    datasets.Dataset.from_dict({"body": ["a", "b"]}).save_to_disk(str(tmp_path / "stored"))
    spec = DataSpec(source=str(tmp_path / "stored"), text_column="body")
    assert [row["text"] for row in stream_rows(spec, modality="text")] == ["a", "b"]
