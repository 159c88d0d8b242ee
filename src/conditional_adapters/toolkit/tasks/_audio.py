"""Recordings in files of any format that libsndfile reads: WAV, FLAC, Ogg, MP3.

soundfile and not the standard library's `wave`: that reads uncompressed WAV only, and corpora of
speech are published as FLAC (LibriSpeech), MP3 (Common Voice) or float WAV.
"""

import io
import math
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float

from ...errors import DataError
from ._cells import BadRow, quote, require_content
from ._extras import import_extra
from ._reader import Column
from ._table import Table

_WINDOW_SECONDS = 30.0  # of Whisper


class AudioCell(TypedDict):
    """A recording: the content of its file, or the absolute path."""

    bytes: bytes | None
    path: str | None


def audio_feature() -> Any:  # noqa: ANN401
    """Return the type of a recording in a data set.

    NOTE: not `datasets.Audio`, which needs torchcodec and FFmpeg to decode.
    """
    import datasets

    return {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def read_audio(value: object, folder: Path, *, max_seconds: float) -> AudioCell:
    """Return a recording in normal form.

    Its head and its last sample are decoded, so a file that is none, or was cut off, is named
    before the work starts.

    Args:
        value: A path, the bytes of a file, or a mapping with "bytes" or "path".
        folder: Where a relative path starts.
        max_seconds: The longest recording that is allowed.

    Returns:
        The bytes if there are any, else the path.

    Raises:
        BadRow: If there is no recording, or it is empty, too long, or cannot be decoded.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    require_content(value, "recording")
    if isinstance(value, bytes):
        cell = AudioCell(bytes=value, path=None)
    elif isinstance(value, str):
        cell = AudioCell(bytes=None, path=str(folder.absolute() / value))
    else:
        raise BadRow(f"the recording is {quote(value)}, it must be a path or the bytes of a file")
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(_file(cell)) as sound:
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
    """Decode a recording, mix its channels and resample it.

    Args:
        cell: From `read_audio`.
        sampling_rate: Samples per second that are wanted.

    Returns:
        Samples, full scale at -1 and 1.

    Raises:
        DataError: If the file is damaged.
    """
    from scipy.signal import resample_poly

    soundfile = _soundfile()
    try:
        samples, rate = soundfile.read(_file(cell), dtype="float32", always_2d=True)
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


AUDIO_COLUMN = Column("audio", _read_window, audio_feature)


def _file(cell: AudioCell) -> io.BytesIO | str:
    content = cell["bytes"]
    return str(cell["path"]) if content is None else io.BytesIO(content)


def _soundfile() -> ModuleType:
    return import_extra("soundfile", extra="speech", purpose="reading recordings")
