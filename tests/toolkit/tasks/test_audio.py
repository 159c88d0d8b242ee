"""Recordings in any format become the same samples, and bad ones are named."""

import datasets
import numpy as np
import pytest
import soundfile

from conditional_adapters.errors import ConfigError, DataError
from conditional_adapters.toolkit.tasks._audio import decode_audio
from conditional_adapters.toolkit.tasks.data import DataSpec
from conditional_adapters.toolkit.tasks.kinds import find_task
from conditional_adapters.toolkit.tasks.task_data import load_task_rows
from tests.helpers.data_files import REMEDY, write_csv, write_json_lines, write_lines
from tests.helpers.tiny_whisper import write_tone

KIND = find_task("automatic-speech-recognition")


def load(path, **fields):
    return load_task_rows(KIND, DataSpec(source=str(path), **fields))


def cell_of(path):
    return {"bytes": None, "path": str(path)}


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_resampling_keeps_the_tone_and_its_loudness(tmp_path, rate) -> None:
    path = write_tone(tmp_path / "tone.wav", 440, seconds=0.5, rate=rate)
    samples = decode_audio(cell_of(path), 16000)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(8000, abs=1)
    times = np.arange(len(samples)) / 16000
    inner = slice(200, -200)  # the filter rings at the ends
    expected = 0.5 * np.sin(2 * np.pi * 440 * times)
    np.testing.assert_allclose(samples[inner], expected[inner], atol=5e-3)


def test_formats_and_channels_do_not_matter(tmp_path) -> None:
    mono = write_tone(tmp_path / "mono.wav", 440, rate=16000)
    stereo = write_tone(tmp_path / "stereo.wav", 440, rate=16000, channels=2)
    samples, rate = soundfile.read(mono, dtype="int16")
    soundfile.write(tmp_path / "mono.flac", samples, rate)
    expected = decode_audio(cell_of(mono), 16000)
    content = {"bytes": (tmp_path / "mono.flac").read_bytes(), "path": None}
    for cell in (cell_of(stereo), cell_of(tmp_path / "mono.flac"), content):
        np.testing.assert_array_equal(decode_audio(cell, 16000), expected)


def test_paths_bytes_and_audio_columns_give_the_same_rows(tmp_path) -> None:
    path = write_tone(tmp_path / "a.wav", 440)
    rows = [{"audio": "a.wav", "text": "a tone"}]
    stored = datasets.Dataset.from_list([{"audio": {"bytes": path.read_bytes(), "path": None}}])
    stored = stored.cast_column("audio", datasets.Audio()).add_column("text", ["a tone"])
    stored.save_to_disk(tmp_path / "stored")
    expected = decode_audio(cell_of(path), 16000)
    for source in (
        write_csv(tmp_path / "a.csv", rows),
        write_json_lines(tmp_path / "a.jsonl", rows),
        tmp_path / "stored",
    ):
        loaded = load(source)
        assert loaded.column_names == ["audio", "text"]
        np.testing.assert_array_equal(decode_audio(loaded[0]["audio"], 16000), expected)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("none.wav", "the recording cannot be read (Error opening"),
        ("text.wav", "the recording cannot be read (Error opening"),
        ("empty.wav", "the recording is empty"),
        ("long.wav", "the recording has 31.0 seconds, it must have at most 30"),
        ("cut.flac", "the recording cannot be read"),
        ("", "the recording is empty"),
    ],
)
def test_a_bad_recording_is_named_by_file_and_line(tmp_path, name, reason) -> None:
    write_tone(tmp_path / "good.wav", 440)
    (tmp_path / "text.wav").write_text("no sound at all")
    write_tone(tmp_path / "empty.wav", 440, seconds=0)
    write_tone(tmp_path / "long.wav", 440, seconds=31)
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "cut.flac", rng.normal(size=20000) / 9, 8000)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    path = write_lines(tmp_path / "x.csv", "audio,text", "good.wav,yes", f"{name},no")
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: {reason}"), message
    assert message.endswith(REMEDY)
    with pytest.warns(UserWarning, match="skipped 1 of 2 rows"):
        assert load(path, on_bad_row="skip")["text"][:] == ["yes"]


def test_a_file_that_is_damaged_later_is_named_as_well(tmp_path) -> None:
    path = tmp_path / "gone.wav"
    with pytest.raises(DataError, match=r"gone\.wav cannot be decoded"):
        decode_audio(cell_of(path), 16000)


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ConfigError, match=r'pip install "conditional-adapters\[speech\]"'):
        decode_audio(cell_of(tmp_path / "x.wav"), 16000)
