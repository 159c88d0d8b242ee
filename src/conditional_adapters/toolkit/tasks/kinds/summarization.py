"""Summarization by encoder-decoders such as T5.

The encoder is conditional, the decoder has adapters, and the loss is the decoder's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as _MODEL_TYPES,
)

from .._collate import pad_targets, pad_texts
from .._extras import import_extra
from .._loading import load_model, load_tokenizer, require_head, text_limit
from .._reader import Column, text_column
from ..task import Columns, Prediction, Quality, TaskDefaults, TaskKind
from ..task_data import row_loader

if TYPE_CHECKING:
    import datasets

NAME = "summarization"

_MAX_TARGET_LENGTH = 128  # tokens of a summary; longer ones are cut, in training as in generation
_METRICS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Summariser(TaskDefaults):
    """Summarization: a `Task`."""

    model: PreTrainedModel
    processor: Any  # its tokenizer
    max_length: int

    name = NAME
    inputs = ("text",)
    labels = ()
    quality = Quality(name="rougeL")

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Tokenise texts and summaries."""
        encoded = self.processor(list(rows["text"]), truncation=True, max_length=self.max_length)
        columns = {key: list(values) for key, values in encoded.items()}
        if "target" in rows:
            targets = self.processor(
                text_target=list(rows["target"]), truncation=True, max_length=_MAX_TARGET_LENGTH
            )
            columns["labels"] = list(targets["input_ids"])
        return columns

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad texts and summaries; the model shifts the summaries for its decoder."""
        batch = pad_texts(self.processor, examples)
        if "labels" in examples[0]:
            batch["labels"] = pad_targets([example["labels"] for example in examples])
        return batch

    def infer(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Generate summaries by greedy decoding."""
        generated = self.model.generate(
            **batch, max_new_tokens=_MAX_TARGET_LENGTH, num_beams=1, do_sample=False
        )
        texts: list[str] = self.processor.batch_decode(generated, skip_special_tokens=True)
        return texts

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Return the summaries."""
        return [{"target": text.strip()} for text in outputs]

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute the mean ROUGE F1 of unigrams, bigrams and longest common subsequences."""
        scores = self._rouge(predictions, rows)
        return {name: sum(score[name] for score in scores) / len(scores) for name in _METRICS}

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Return the ROUGE-L of each example, over 1."""
        return np.array([[row["rougeL"], 1.0] for row in self._rouge(predictions, rows)])

    def _rouge(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> list[dict[str, float]]:
        rouge = import_extra("rouge_score.rouge_scorer", extra="text", purpose="ROUGE")
        scorer = rouge.RougeScorer(_METRICS, use_stemmer=True)
        scores = (
            scorer.score(target, prediction["target"])
            for target, prediction in zip(rows["target"], predictions, strict=True)
        )
        return [{name: score[name].fmeasure for name in _METRICS} for score in scores]


def load_summariser(
    model_name: str, labels: Sequence[str] = (), *, max_length: int | None = None
) -> Summariser:
    """Load an encoder-decoder; see `TaskLoader`."""
    require_head(model_name, _MODEL_TYPES, packaged=(), task=NAME)
    model = load_model(model_name, AutoModelForSeq2SeqLM)
    tokenizer = load_tokenizer(model_name)
    return Summariser(model, tokenizer, text_limit(model, tokenizer, max_length))


def _columns(_labels: Sequence[str] | None) -> tuple[Column, ...]:
    return text_column("text"), text_column("target", is_target=True)


SUMMARIZATION = TaskKind(
    name=NAME,
    columns=_columns,
    load_rows=row_loader(_columns),
    load=load_summariser,
    split_column="text",
)
