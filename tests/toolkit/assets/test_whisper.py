"""Whisper: the converted model against numbers of CTranslate2, and on real speech."""

import gzip
import re
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal
from transformers import WhisperForConditionalGeneration, WhisperModel

from conditional_adapters.errors import AssetError
from conditional_adapters.toolkit.assets import (
    load_packaged_feature_extractor,
    load_packaged_model,
    load_packaged_tokenizer,
)
from conditional_adapters.toolkit.assets._catalogue import verified_path
from conditional_adapters.toolkit.assets._ctranslate2 import read_variables
from conditional_adapters.toolkit.assets._whisper import variables_to_state_dict

# Made once with CTranslate2 4.8.5 on the same model.bin:
#   model = ctranslate2.models.Whisper(folder, device="cpu", compute_type="float32")
#   features = ctranslate2.StorageView.from_array(MEL)
#   encoded = numpy.array(model.encode(features))[0]
#   result = model.generate(features, [[50257, 50362]], beam_size=1, max_length=8,
#                           suppress_blank=False, suppress_tokens=None, return_logits_vocab=True)[0]
# GREEDY is result.sequences_ids[0]; LOGITS holds, for each step, the value of that token, of
# token 0 and of token 50256 in result.logits[0].
MEL = np.sin(0.1 * np.arange(80)[:, None] + 0.01 * np.arange(3000))[None].astype(np.float32)
ENCODED = {
    (0, 0): -1.15539,
    (0, 383): -0.64414,
    (1, 100): -0.66631,
    (749, 5): -1.13016,
    (750, 200): 0.95518,
    (1499, 0): -0.02737,
    (1499, 383): 0.22481,
}
ENCODED_MEAN, ENCODED_DEVIATION = -0.023812, 1.096553
GREEDY = [357, 65, 4715, 278]
LOGITS = [
    (12.435746, 4.6339555, 5.6602354),
    (1.2036452, -10.520149, -7.3178096),
    (9.799169, -4.4377155, -1.2437769),
    (12.164119, 1.099296, 4.0907555),
]

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")


@pytest.fixture(scope="module")
def variables(needs):
    needs("whisper")
    return read_variables(verified_path("whisper"), model="WhisperSpec", revision=3)


@pytest.fixture(scope="module")
def model(needs):
    needs("whisper")
    return load_packaged_model("whisper")


def test_every_parameter_comes_from_the_file(variables, model):
    assert type(model) is WhisperForConditionalGeneration
    torch.testing.assert_close(
        dict(model.model.state_dict()), variables_to_state_dict(variables), rtol=0, atol=0
    )
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_encoder_agrees_with_ctranslate2(needs, attention):
    needs("whisper")
    model = load_packaged_model("whisper", WhisperModel, attn_implementation=attention)
    with torch.no_grad():
        encoded = model.encoder(torch.from_numpy(MEL)).last_hidden_state[0]
    # Measured over all values: at most 2.9e-5, where values reach 13.
    for position, expected in ENCODED.items():
        assert encoded[position].item() == pytest.approx(expected, abs=1e-4), position
    assert encoded.mean().item() == pytest.approx(ENCODED_MEAN, abs=1e-5)
    assert encoded.std().item() == pytest.approx(ENCODED_DEVIATION, abs=1e-5)


def test_the_decoder_agrees_with_ctranslate2(model):
    tokens = torch.tensor([[50257, 50362, *GREEDY]])
    with torch.no_grad():
        outputs = model(input_features=torch.from_numpy(MEL), decoder_input_ids=tokens)
    # The prediction of the first new token is at the end of the prompt of two.
    logits = outputs.logits[0, 1:-1]
    assert logits.argmax(-1).tolist() == GREEDY
    chosen = [
        [step[token], step[0], step[50256]] for step, token in zip(logits, GREEDY, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(chosen), torch.tensor(LOGITS), rtol=0, atol=2e-4)


def _transcript(recording: str) -> str:
    lines = gzip.decompress(TRANSCRIPTS.read_bytes()).decode().splitlines()
    return next(line.split(": ", 1)[1] for line in lines if line.startswith(f"{recording}: "))


def _sound(recording: str) -> np.ndarray:
    """Read a recording of 8 kHz as 16 kHz."""
    with wave.open(str(SOUNDS / f"{recording}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return signal.resample_poly(samples / 32768, up=2, down=1)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.mark.parametrize("recording", ["agent-alreadyon", "auth-incorrect"])
def test_it_transcribes_real_speech_word_for_word(model, recording, needs):
    needs("prompts/recordings")
    needs("prompts/transcripts")
    features = load_packaged_feature_extractor("whisper")(
        _sound(recording), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    assert features.shape == (1, 80, 3000)
    tokens = model.generate(features)
    text = load_packaged_tokenizer("whisper").decode(tokens[0], skip_special_tokens=True)
    assert len(_words(text)) > 9
    assert _words(text) == _words(_transcript(recording))


def test_generation_knows_the_special_tokens(model):
    settings = model.generation_config
    tokenizer = load_packaged_tokenizer("whisper")
    ids = {
        "<|endoftext|>": settings.eos_token_id,
        "<|startoftranscript|>": settings.decoder_start_token_id,
        "<|notimestamps|>": settings.no_timestamps_token_id,
    }
    assert tokenizer.convert_tokens_to_ids(list(ids)) == list(ids.values())
    assert tokenizer.pad_token_id == settings.pad_token_id == model.config.pad_token_id
    assert model.config.decoder_start_token_id == settings.decoder_start_token_id
    assert len(settings.suppress_tokens) == 90
    assert settings.begin_suppress_tokens == [tokenizer.encode(" ")[2], settings.eos_token_id]


def test_labels_become_text_again(needs):
    needs("whisper")
    tokenizer = load_packaged_tokenizer("whisper")
    ids = tokenizer(" Hello, world").input_ids
    assert [ids[0], ids[1], ids[-1]] == [50257, 50362, 50256]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " Hello, world"


def test_an_unknown_variable_is_refused(variables):
    with pytest.raises(AssetError, match=r"'decoder/gate/weight' is not a variable"):
        variables_to_state_dict({**variables, "decoder/gate/weight": np.zeros(2)})


def test_a_key_with_a_bias_is_refused(variables):
    name = "encoder/layer_0/self_attention/linear_0/bias"
    with pytest.raises(AssetError, match=r"encoder\.layers\.0\.self_attn\.k_proj\.bias is not 0"):
        variables_to_state_dict({name: np.ones_like(variables[name])})


def test_other_feature_extractors_are_refused():
    with pytest.raises(AssetError, match=r"feature extractor 'dinov2'. Known names: whisper"):
        load_packaged_feature_extractor("dinov2")
