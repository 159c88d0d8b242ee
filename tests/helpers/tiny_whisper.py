"""A Whisper of a few thousand parameters with a tokenizer of bytes, in a local folder."""

import math
import wave

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

import conditional_adapters as ca
from conditional_adapters.toolkit.tasks.kinds import find_task
from tests.helpers.tiny_classifiers import randomise_adapter

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>"]
SECONDS = 2  # of the window


def write_whisper(folder, *, multilingual=False):
    """Save a random English Whisper with everything that `from_pretrained` needs."""
    # What follows the last special token would be a time.
    symbols = [*sorted(ByteLevel.alphabet()), *SPECIAL]
    end, start, _, no_timestamps = range(len(symbols) - len(SPECIAL), len(symbols))
    tokenizer = WhisperTokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        pad_token="<|endoftext|>",
        model_max_length=40,
        additional_special_tokens=SPECIAL[1:],
    )
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=SECONDS)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            vocab_size=len(symbols),
            num_mel_bins=8,
            max_source_positions=50 * SECONDS,
            max_target_positions=40,
            pad_token_id=end,
            bos_token_id=start,
            eos_token_id=end,
            decoder_start_token_id=start,
            init_std=0.2,
        )
    )
    # As in a trained model: the end of the text is the padding, whose embedding starts at zero.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.2)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        no_timestamps_token_id=no_timestamps,
        is_multilingual=multilingual,
        max_length=40,
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    return folder


def recogniser(folder, reduction_factor=(2, 4, 8), *, max_length=8):
    """Load a random Whisper with an adapter far from its start."""
    torch.manual_seed(0)
    task = find_task("automatic-speech-recognition").load(
        str(write_whisper(folder)), (), max_length=max_length
    )
    with torch.no_grad():  # so that the decoder hears what the encoder says
        for layer in task.model.model.decoder.layers:
            layer.encoder_attn.out_proj.weight.mul_(20)
            layer.encoder_attn.v_proj.weight.mul_(5)
    task.model.save_pretrained(folder)
    ca.attach(
        task.model, ca.ConditionalAdapterConfig(reduction_factor=reduction_factor, adapter_dim=4)
    )
    randomise_adapter(task.model)
    return task


def write_tone(path, frequency, *, seconds=0.5, rate=8000, channels=1):
    """Write a tone as 16-bit WAV through the standard library."""
    times = np.arange(math.floor(seconds * rate)) / rate
    samples = (0.5 * 32767 * np.sin(2 * math.pi * frequency * times)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples[:, None], channels, 1).tobytes())
    return path
