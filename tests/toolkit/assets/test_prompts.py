"""The telephone prompts: recordings, each with what is said in it."""

import gzip
import re
from pathlib import Path

import pytest
import soundfile

from conditional_adapters.errors import AssetError
from conditional_adapters.toolkit.assets import ASSETS, telephone_prompts


@pytest.fixture(scope="module")
def prompts(needs):
    needs("prompts/recordings")
    needs("prompts/transcripts")
    return telephone_prompts()


def test_every_prompt_has_the_line_of_its_file(prompts):
    asset = ASSETS["prompts/transcripts"]
    content = gzip.decompress((Path(asset.folder) / asset.file).read_bytes()).decode()
    said = dict(re.findall(r"^([^;:\n]+):[ \t]*(.*?)[ \t]*$", content, flags=re.MULTILINE))
    assert len(prompts) == 540
    sources = [prompt.source for prompt in prompts]
    assert sources == sorted(set(sources))
    for prompt in prompts:
        assert said[prompt.source.removesuffix(".wav")] == prompt.text
        assert not set("[]()<>") & set(prompt.text)
        assert any(character.isalpha() for character in prompt.text)


def test_recordings_are_those_of_the_files(prompts):
    asset = ASSETS["prompts/recordings"]
    for prompt in prompts[::50]:
        path = Path(asset.folder) / asset.file / prompt.source
        assert path.read_bytes() == prompt.audio
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")
        assert prompt.seconds == pytest.approx(info.duration)
    too_long = {prompt.source for prompt in prompts if prompt.seconds > 30}
    assert too_long == {"demo-congrats.wav", "demo-instruct.wav", "priv-callee-options.wav"}


def test_a_changed_recording_is_refused(prompts, monkeypatch, tmp_path):
    from dataclasses import replace

    from conditional_adapters.toolkit.assets import _catalogue

    (tmp_path / "en_US_f_Allison").mkdir()
    (tmp_path / "en_US_f_Allison/beep.wav").write_bytes(b"RIFF")
    asset = replace(ASSETS["prompts/recordings"], folder=str(tmp_path))
    monkeypatch.setattr(_catalogue, "ASSETS", {**ASSETS, "prompts/recordings": asset})
    with pytest.raises(AssetError, match=f"Allison has the SHA-256 .*{asset.sha256}"):
        telephone_prompts()
