"""Speech recognition with Whisper: recordings in, transcripts out.

The encoder is conditional, the decoder gets adapters, and the loss is the decoder's. The feature
extractor's attention mask goes to the model, so that the routers know where the speech ends
(docs/decisions/0005).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedModel,
    WhisperProcessor,
)

from ...assets import load_packaged_feature_extractor
from ...errors import ConfigError, DataError, UnsupportedArchitectureError
from .._audio import AudioCell, audio_feature, decode_audio, read_audio
from .._collate import pad_targets
from .._extras import import_extra
from .._loading import PACKAGED, from_pretrained, load_model, load_tokenizer, require_head
from .._rows import Column, text_column
from .._table import Table
from ..comparison import ratio_of_sums
from ..rows import row_loader
from ..task import Columns, Prediction, Quality, TaskDefaults, TaskKind

if TYPE_CHECKING:
    import datasets

NAME = "automatic-speech-recognition"
PACKAGED_MODELS = ("whisper",)

_WINDOW_SECONDS = 30.0  # of Whisper


@dataclass(frozen=True)
class SpeechRecogniser(TaskDefaults):
    """Whisper, and what feeds it: a `Task`.

    Attributes:
        model: A Whisper model with its decoder.
        processor: Its feature extractor and tokenizer.
        max_length: Tokens of a transcript at most, with the special ones.
        name: As in `Task`, like all that follow.
        inputs: What the model reads.
        labels: Nothing is classified.
        chunk_size: A window of features takes a megabyte.
        quality: The word error rate.
    """

    model: PreTrainedModel
    processor: Any
    max_length: int

    name = NAME
    inputs = ("audio",)
    labels = ()
    chunk_size = 128
    quality = Quality(name="wer", is_error=True)

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Turn recordings into windows of features, and transcripts into tokens."""
        extractor = self.processor.feature_extractor
        recordings = [decode_audio(cell, extractor.sampling_rate) for cell in rows["audio"]]
        for cell, samples in zip(rows["audio"], recordings, strict=True):
            if len(samples) > extractor.n_samples:
                raise DataError(
                    f"the recording {cell['path'] or 'of a row'} has "
                    f"{len(samples) / extractor.sampling_rate:.1f} seconds, and the window of the "
                    f"model {extractor.n_samples / extractor.sampling_rate:g}. Cut it at pauses."
                )
        features = extractor(
            recordings,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
        )
        columns = {key: list(features[key]) for key in ("input_features", "attention_mask")}
        if "text" in rows:
            columns["labels"] = [self._targets(text) for text in rows["text"]]
        return columns

    def _targets(self, text: str) -> list[int]:
        """Tokenise a transcript; the model itself puts the start token in front."""
        tokens: list[int] = self.processor.tokenizer(text)["input_ids"]
        if len(tokens) > self.max_length:
            raise DataError(
                f"the transcript {text[:60]!r} has {len(tokens)} tokens, and the decoder takes "
                f"{self.max_length}. Cut recording and transcript at pauses."
            )
        return tokens[1:] if tokens[0] == self.model.config.decoder_start_token_id else tokens

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Stack windows; pad transcripts with what the loss passes over."""
        batch = {
            key: torch.stack([example[key] for example in examples])
            for key in ("input_features", "attention_mask")
        }
        if "labels" in examples[0]:
            batch["labels"] = pad_targets([example["labels"] for example in examples])
        return batch

    def infer(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Write down the speech."""
        generated = self.model.generate(**batch, max_length=self.max_length)
        texts: list[str] = self.processor.batch_decode(generated, skip_special_tokens=True)
        return texts

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Return the transcripts."""
        return [{"text": text.strip()} for text in outputs]

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute the word error rate after Whisper's English normaliser."""
        return {"wer": ratio_of_sums(self.tally(predictions, rows))}

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Count wrong, missing and superfluous words, and the words that were said."""
        jiwer = import_extra("jiwer", extra="speech", purpose="the word error rate")
        english = import_extra(
            "whisper_normalizer.english", extra="speech", purpose="the word error rate"
        )
        normalise = english.EnglishTextNormalizer()
        references = [normalise(text) for text in rows["text"]]
        output = jiwer.process_words(references, [normalise(p["text"]) for p in predictions])
        errors = [
            sum(
                max(part.ref_end_idx - part.ref_start_idx, part.hyp_end_idx - part.hyp_start_idx)
                for part in alignment
                if part.type != "equal"
            )
            for alignment in output.alignments
        ]
        return np.array([errors, [len(words) for words in output.references]], dtype=float).T


def load_speech_recogniser(
    model_name: str, labels: Sequence[str] = (), *, max_length: int | None = None
) -> SpeechRecogniser:
    """Load an English Whisper.

    Args:
        model_name: A local folder, a hub id, or "packaged:whisper".
        labels: None; speech is not classified.
        max_length: Tokens of a transcript at most; None means what the decoder takes.

    Returns:
        The model in evaluation mode, with what feeds it.

    Raises:
        ConfigError: If there is no such model, or the length is out of range.
        UnsupportedArchitectureError: If it is no Whisper, or a multilingual one.
    """
    require_head(model_name, ("whisper",), packaged=PACKAGED_MODELS, task=NAME)
    model = load_model(model_name, AutoModelForSpeechSeq2Seq)
    if getattr(model.generation_config, "is_multilingual", False):
        raise UnsupportedArchitectureError(
            f"{model_name!r} is a multilingual Whisper, and only English ones are supported. Take "
            "one whose name ends in .en, such as openai/whisper-tiny.en."
        )
    limit = model.config.max_target_positions
    if max_length is not None and not 4 <= max_length <= limit:
        raise ConfigError(
            f"max_length must be between 4 and {limit} tokens of a transcript, got {max_length}."
        )
    return SpeechRecogniser(model, _load_processor(model_name), max_length or limit)


def _load_processor(model_name: str) -> Any:  # noqa: ANN401
    if model_name.startswith(PACKAGED):
        extractor = load_packaged_feature_extractor(model_name.removeprefix(PACKAGED))
        return WhisperProcessor(extractor, load_tokenizer(model_name))
    return from_pretrained(AutoProcessor, model_name)


def _read_audio(value: object, table: Table, _name: str) -> AudioCell:
    return read_audio(value, table.folder, max_seconds=_WINDOW_SECONDS)


def _columns(_labels: Sequence[str] | None) -> tuple[Column, ...]:
    return Column("audio", _read_audio, audio_feature), text_column("text", is_target=True)


SPEECH_RECOGNITION = TaskKind(
    name=NAME,
    columns=_columns,
    load_rows=row_loader(_columns),
    load=load_speech_recogniser,
    split_column="text",
)
