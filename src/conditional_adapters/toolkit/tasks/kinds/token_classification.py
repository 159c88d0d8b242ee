"""Token classification, such as named entity recognition: a tag for each word.

Only the first sub-token of a word has a target. Rows that exceed the model's limit are divided into
several examples, so that every word gets a tag.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES as _MODEL_TYPES,
)

from ....errors import ConfigError, DataError
from .._cells import BadRow, quote, read_label, read_text, require_known_label
from .._collate import IGNORED, pad_targets, pad_texts
from .._extras import import_extra
from .._loading import label_settings, load_fast_tokenizer, load_model, require_head, text_limit
from .._reader import Column
from .._table import Table, in_label_order
from ..comparison import ratio_of_sums
from ..task import Columns, Prediction, Quality, TaskDefaults, TaskKind
from ..task_data import row_loader

if TYPE_CHECKING:
    import datasets

NAME = "token-classification"

_ENTITY_TAG = re.compile("O|[BI]-.+")


@dataclass(frozen=True)
class TokenClassifier(TaskDefaults):
    """Token classification: a `Task`."""

    model: PreTrainedModel
    processor: Any  # its tokenizer
    labels: tuple[str, ...]
    max_length: int  # of an example

    name = NAME
    inputs = ("words",)
    splits_rows = True

    @property
    def quality(self) -> Quality:
        """F1 over entities if the tags are IOB2, else accuracy over words."""
        is_iob2 = all(_ENTITY_TAG.fullmatch(label) for label in self.labels)
        return Quality(name="entity_f1" if is_iob2 else "accuracy")

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Convert words to sub-tokens; `word` is the index of the word that starts there, or -1."""
        words = [list(row) for row in rows["words"]]
        encoded = self.processor(
            words,
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            return_overflowing_tokens=True,
        )
        sources = list(encoded.pop("overflow_to_sample_mapping"))
        columns = {key: list(values) for key, values in encoded.items()} | {"row": sources}
        starts = self._first_tokens(
            words, sources, [encoded.word_ids(i) for i in range(len(sources))]
        )
        if "tags" not in rows:
            return columns | {"word": starts}
        numbers = {label: number for number, label in enumerate(self.labels)}
        columns["labels"] = [
            [IGNORED if word < 0 else numbers[rows["tags"][row][word]] for word in example]
            for row, example in zip(sources, starts, strict=True)
        ]
        return columns

    def _first_tokens(
        self, words: list[list[str]], sources: list[int], word_ids: list[list[int | None]]
    ) -> list[list[int]]:
        """Find the first sub-token of each word; a word cut in two starts only once."""
        done = [-1] * len(words)  # index of the last started word, for each row
        starts = []
        for row, ids in zip(sources, word_ids, strict=True):
            starts_here = [-1] * len(ids)
            for position, word in enumerate(ids):
                if word is None or word <= done[row]:
                    continue
                if word != done[row] + 1:
                    break
                starts_here[position] = done[row] = word
            starts.append(starts_here)
        for row, last in enumerate(done):
            if last + 1 < len(words[row]):
                raise DataError(
                    f"the tokenizer produces no token for the word {words[row][last + 1]!r}. "
                    "Remove it and its tag from the row."
                )
        return starts

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad sub-tokens and their targets."""
        batch = pad_texts(self.processor, examples)
        if "labels" in examples[0]:
            side = self.processor.padding_side
            batch["labels"] = pad_targets([example["labels"] for example in examples], side=side)
        return batch

    def infer(self, batch: Mapping[str, Tensor]) -> list[Int[np.ndarray, " seq"]]:
        """Predict a tag for each sub-token, without the padding."""
        chosen = self.model(**batch).logits.argmax(-1).cpu().numpy()
        mask = batch["attention_mask"].bool().cpu().numpy()
        return [tags[is_token] for tags, is_token in zip(chosen, mask, strict=True)]

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Return the tag of each word."""
        tags: list[list[str]] = [[] for _ in rows["words"]]
        for row, words, numbers in zip(examples["row"], examples["word"], outputs, strict=True):
            for word, number in zip(words, numbers, strict=True):
                if word >= 0:
                    tags[row].append(self.labels[number])
        return [{"tags": row} for row in tags]

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute accuracy and macro-averaged F1 over words, and F1 over entities in IOB2 tags."""
        from sklearn.metrics import accuracy_score, f1_score

        gold = [list(tags) for tags in rows["tags"]]
        predicted = [prediction["tags"] for prediction in predictions]
        words = list(chain.from_iterable(gold)), list(chain.from_iterable(predicted))
        metrics = {
            "accuracy": float(accuracy_score(*words)),
            "macro_f1": float(f1_score(*words, average="macro", zero_division=0)),
        }
        if self.quality.name == "entity_f1":
            metrics["entity_f1"] = ratio_of_sums(self.tally(predictions, rows))
        return metrics

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Count correct entities twice over entities of both sides, or correct words over words."""
        pairs = [
            (list(gold), prediction["tags"])
            for gold, prediction in zip(rows["tags"], predictions, strict=True)
        ]
        if self.quality.name == "accuracy":
            num_correct = [sum(map(operator.eq, *pair)) for pair in pairs]
            return np.array([num_correct, [len(gold) for gold, _ in pairs]], dtype=float).T
        labeling = import_extra(
            "seqeval.metrics.sequence_labeling", extra="text", purpose="F1 over entities"
        )
        entities = [[set(labeling.get_entities(tags)) for tags in pair] for pair in pairs]
        return np.array([[2.0 * len(a & b), len(a) + len(b)] for a, b in entities])


def load_token_classifier(
    model_name: str, labels: Sequence[str], *, max_length: int | None = None
) -> TokenClassifier:
    """Load a model with a fresh head for these tags; see `TaskLoader`. Divides longer rows."""
    require_head(model_name, _MODEL_TYPES, packaged=("minilm",), task=NAME)
    if len(labels) < 2:
        raise ConfigError(
            f"{NAME} needs at least 2 different tags, got {list(labels)}. Check the tags column."
        )
    tokenizer = load_fast_tokenizer(model_name, task=NAME)
    model = load_model(model_name, AutoModelForTokenClassification, **label_settings(labels))
    return TokenClassifier(
        model, tokenizer, tuple(labels), text_limit(model, tokenizer, max_length)
    )


def _words_feature() -> Any:  # noqa: ANN401
    import datasets

    return datasets.List(datasets.Value("string"))


def _list_of(value: object, noun: str) -> list[object]:
    if value is None:
        raise BadRow(f"the {noun} are missing")
    if not isinstance(value, list):
        raise BadRow(f"the {noun} are {quote(value)}, they must be a list")
    if not value:
        raise BadRow(f"the list of {noun} is empty")
    return value


def _read_words(value: object, _table: Table, _name: str) -> list[str]:
    return [read_text(word, "word") for word in _list_of(value, "words")]


def _read_tags(known: Sequence[str] | None, value: object, table: Table, name: str) -> list[str]:
    names = table.class_names.get(name)
    tags = [read_label(tag, names) for tag in _list_of(value, "tags")]
    if known is not None:
        for tag in tags:
            require_known_label(tag, known)
    return tags


def _columns(labels: Sequence[str] | None) -> tuple[Column, ...]:
    return (
        Column("words", _read_words, _words_feature),
        Column("tags", partial(_read_tags, labels), _words_feature, is_target=True),
    )


def _check(cells: Mapping[str, Any]) -> None:
    if "tags" in cells and len(cells["words"]) != len(cells["tags"]):
        raise BadRow(f"there are {len(cells['words'])} words and {len(cells['tags'])} tags")


def _labels_of(rows: "datasets.Dataset") -> tuple[str, ...]:
    return tuple(in_label_order(tag for tags in rows["tags"] for tag in tags))


TOKEN_CLASSIFICATION = TaskKind(
    name=NAME,
    columns=_columns,
    load_rows=row_loader(_columns, _check),
    load=load_token_classifier,
    split_column="words",
    labels_of=_labels_of,
)
