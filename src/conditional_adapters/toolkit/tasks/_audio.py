"""Recordings in files of any format that libsndfile reads: WAV, FLAC, Ogg, MP3.

soundfile and not the standard library's `wave`, which reads uncompressed WAV only: speech corpora
are published as FLAC (LibriSpeech), MP3 (Common Voice) or float WAV.
"""

import math
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from ...errors import DataError
from ._cells import BadRow, FileCell, open_cell, read_file
from ._extras import import_extra
from ._reader import Column
from ._table import Table

AudioCell: TypeAlias = FileCell
_WINDOW_SECONDS = 30.0  # of Whisper


def _audio_feature() -> Any:  # noqa: ANN401
    """Type of a recording in a data set.

    NOTE: not `datasets.Audio`, which needs torchcodec and FFmpeg to decode.
    """
    import datasets

    return {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def read_audio(value: object, folder: Path, *, max_seconds: float) -> AudioCell:
    """Return a recording in normal form, or raise `BadRow`.

    Decodes the header and the last sample, so a damaged or truncated file is found at once.
    """
    cell = read_file(value, folder, "recording")
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(open_cell(cell)) as sound:
            num_samples, seconds = sound.frames, sound.frames / sound.samplerate
            sound.seek(max(0, num_samples - 1))
            is_complete = len(sound.read(1)) == 1
    except (soundfile.SoundFileError, OSError) as error:
        raise BadRow(f"the recording cannot be read ({error})") from None
    if not num_samples or not is_complete:
        raise BadRow("the recording is empty" if not num_samples else "the recording is cut off")
    if seconds > max_seconds:
        raise BadRow(
            f"the recording has {seconds:.1f} seconds, it must have at most {max_seconds:g} (cut "
            "it, with its text, at pauses)"
        )
    return cell


def decode_audio(cell: AudioCell, sampling_rate: int) -> Float[np.ndarray, " samples"]:
    """Decode a recording to mono samples between -1 and 1 at a sampling rate."""
    from scipy.signal import resample_poly

    soundfile = _soundfile()
    try:
        samples, rate = soundfile.read(open_cell(cell), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            f"the recording {cell['path'] or 'of a row'} cannot be decoded ({error}). Replace the "
            "file or remove the row."
        ) from error
    divisor = math.gcd(rate, sampling_rate)
    resampled = resample_poly(samples.mean(1), sampling_rate // divisor, rate // divisor)
    return np.asarray(resampled, dtype=np.float32)


def _read_window(value: object, table: Table, _name: str) -> AudioCell:
    return read_audio(value, table.folder, max_seconds=_WINDOW_SECONDS)


AUDIO_COLUMN = Column("audio", _read_window, _audio_feature)


def _soundfile() -> ModuleType:
    return import_extra("soundfile", extra="speech", purpose="reading recordings")
