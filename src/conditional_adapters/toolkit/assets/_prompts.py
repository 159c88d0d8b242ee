"""Telephone prompts with transcripts: one speaker, 8 kHz, from Debian's Asterisk packages.

Transcripts are lines of a text file, "agent-pass: Please enter your password ...". Recordings are
WAV files of these names.
"""

import gzip
import io
import wave
from dataclasses import dataclass

from ._catalogue import verified_folder, verified_path

# Brackets mark sounds and silence: "[ascending tones]", "dash [-]".
_BRACKETS = "[(<"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One recording and its transcript."""

    # Content of a WAV file: one channel of 16 bits at 8 kHz.
    audio: bytes
    text: str
    # Path of the file in the folder of the recordings: "digits/1.wav".
    source: str
    seconds: float


def telephone_prompts() -> list[Prompt]:
    """Read the 540 prompts that contain only speech, in the order of their files.

    NOTE: some texts occur twice. Keep equal texts in one split. Three recordings are longer than
    the 30 seconds of Whisper's input.
    """
    lines = gzip.decompress(verified_path("prompts/transcripts").read_bytes()).decode()
    recordings = verified_folder("prompts/recordings", "**/*.wav")
    prompts = []
    for line in lines.splitlines():
        name, _, text = line.partition(":")
        audio = recordings.get(f"{name}.wav")
        if audio is not None and not any(bracket in text for bracket in _BRACKETS):
            prompts.append(Prompt(audio, text.strip(), f"{name}.wav", _seconds(audio)))
    return sorted(prompts, key=lambda prompt: prompt.source)


def _seconds(audio: bytes) -> float:
    with wave.open(io.BytesIO(audio)) as file:
        return float(file.getnframes() / file.getframerate())
