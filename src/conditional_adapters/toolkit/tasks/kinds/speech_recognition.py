"""Speech recognition with Whisper: transcripts of recordings.

The encoder is conditional, the decoder has adapters, and the loss is the decoder's. A mask has the
length of the speech in a window, from which the routers compute their budget (docs/decisions/0005).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from ....errors import ConfigError, DataError
from .._audio import AUDIO_COLUMN
from .._collate import pad_targets
from .._loading import load_speech_model
from .._reader import Column, text_column
from ..comparison import ratio_of_sums
from ..metrics import word_errors
from ..preprocessing import Preprocessor
from ..task import Columns, Prediction, Quality, TaskDefaults, TaskKind
from ..task_data import row_loader

if TYPE_CHECKING:
    import datasets

NAME = "automatic-speech-recognition"


@dataclass(frozen=True)
class SpeechRecogniser(TaskDefaults):
    """Speech recognition with Whisper: a `Task`."""

    model: PreTrainedModel
    processor: Any  # its feature extractor and tokenizer
    max_length: int  # of a transcript, with special tokens

    name = NAME
    inputs = ("audio",)
    labels = ()
    chunk_size = 128  # a window of features takes a megabyte
    quality = Quality(name="wer", is_error=True)

    @property
    def preprocessor(self) -> Preprocessor:
        """Conversion of recordings to the model's input."""
        return Preprocessor(self.processor, "audio", None)

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Convert recordings to windows of features, and transcripts to tokens."""
        columns = self.preprocessor.encode({"audio": rows["audio"]})
        if "text" in rows:
            columns["labels"] = [self._targets(text) for text in rows["text"]]
        return columns

    def _targets(self, text: str) -> list[int]:
        """Tokenise a transcript without the start token, which the model adds."""
        tokens: list[int] = self.processor.tokenizer(text)["input_ids"]
        if len(tokens) > self.max_length:
            raise DataError(
                f"the transcript {text[:60]!r} has {len(tokens)} tokens, but the decoder supports "
                f"{self.max_length}. Cut recording and transcript at pauses."
            )
        return tokens[1:] if tokens[0] == self.model.config.decoder_start_token_id else tokens

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Stack windows and pad transcripts."""
        windows = [{k: v for k, v in e.items() if k != "labels"} for e in examples]
        batch = self.preprocessor.collate(windows)
        if "labels" in examples[0]:
            batch["labels"] = pad_targets([example["labels"] for example in examples])
        return batch

    def infer(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Transcribe the speech."""
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
        """Count the word errors and the words of each transcript."""
        counts = word_errors(rows["text"], [prediction["text"] for prediction in predictions])
        return np.array(counts, dtype=float).reshape(-1, 2)


def load_speech_recogniser(
    model_name: str, labels: Sequence[str] = (), *, max_length: int | None = None
) -> SpeechRecogniser:
    """Load an English Whisper; see `TaskLoader`. Cuts no transcripts, but refuses longer ones."""
    model, processor = load_speech_model(model_name)
    limit = model.config.max_target_positions
    if max_length is not None and not 4 <= max_length <= limit:
        raise ConfigError(
            f"max_length must be between 4 and {limit} tokens of a transcript, got {max_length}."
        )
    return SpeechRecogniser(model, processor, max_length or limit)


def _columns(_labels: Sequence[str] | None) -> tuple[Column, ...]:
    return AUDIO_COLUMN, text_column("text", is_target=True)


SPEECH_RECOGNITION = TaskKind(
    name=NAME,
    columns=_columns,
    load_rows=row_loader(_columns),
    load=load_speech_recogniser,
    split_column="text",
)
