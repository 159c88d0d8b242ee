"""Telephone prompts with transcripts: one speaker, 8 kHz, from Debian's Asterisk packages.

The transcripts are lines of a text file, "agent-pass: Please enter your password ...", and the
recordings WAV files of these names.
"""

import gzip
import io
import wave
from dataclasses import dataclass

from ._catalogue import verified_folder, verified_path

# Transcripts with these describe sounds or silence: "[ascending tones]", "dash [-]".
_BRACKETS = "[(<"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One recording and what is said in it."""

    # The content of a WAV file: one channel, 8,000 samples of 16 bits per second.
    audio: bytes
    text: str
    # The file, relative to the folder of the recordings: "digits/1.wav".
    source: str
    # The length of the recording.
    seconds: float


def telephone_prompts() -> list[Prompt]:
    """Read the 540 prompts that are nothing but speech, in the order of their files.

    NOTE: some are read twice with the same words. Keep equal texts on one side when you divide
    them. Three are longer than the 30 seconds that Whisper hears at once.

    Returns:
        One record for each recording.

    Raises:
        AssetError: If a package is missing or a file is not the one we know.
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
