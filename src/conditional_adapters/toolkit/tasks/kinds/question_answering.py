"""Extractive question answering as in SQuAD: the answer is a span of the context.

A context that exceeds the model's limit is divided into overlapping windows, each with the
question. The answer is the best span of all windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES as _MODEL_TYPES,
)

from ....errors import DataError
from .._cells import BadRow, quote, read_text
from .._collate import pad_texts
from .._extras import import_extra
from .._loading import load_fast_tokenizer, load_model, require_head, text_limit
from .._reader import Column, text_column
from .._table import Table
from ..task import Columns, Prediction, Quality, TaskDefaults, TaskKind
from ..task_data import row_loader

if TYPE_CHECKING:
    import datasets

NAME = "question-answering"

_OVERLAP = 1 / 3  # of a window's length, with the next one
_MAX_ANSWER_LENGTH = 30  # tokens, as in BERT's code for SQuAD


@dataclass(frozen=True)
class QuestionAnswerer(TaskDefaults):
    """Question answering: a `Task`."""

    model: PreTrainedModel
    processor: Any  # its tokenizer
    max_length: int  # of a question with a window of its context

    name = NAME
    inputs = ("question", "context")
    labels = ()
    chunk_size = 512
    splits_rows = True
    quality = Quality(name="f1")

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Pair questions with windows of contexts; `span` has the characters of each token."""
        stride = int(self.max_length * _OVERLAP)
        self._check_questions(rows["question"], limit=self.max_length - stride)
        encoded = self.processor(
            list(rows["question"]),
            list(rows["context"]),
            truncation="only_second",
            max_length=self.max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        sources = list(encoded.pop("overflow_to_sample_mapping"))
        offsets = encoded.pop("offset_mapping")
        columns = {key: list(values) for key, values in encoded.items()} | {"row": sources}
        # Position of each token in the context; (-1, -1) outside of it.
        spans = [
            [
                pair if part == 1 else (-1, -1)
                for pair, part in zip(pairs, encoded.sequence_ids(index), strict=True)
            ]
            for index, pairs in enumerate(offsets)
        ]
        if "answers" not in rows:
            return columns | {"span": spans}
        positions = [
            _find_answer(window, rows["answers"][row]) or (self._null(ids),) * 2
            for window, row, ids in zip(spans, sources, columns["input_ids"], strict=True)
        ]
        columns["start_positions"] = [start for start, _ in positions]
        columns["end_positions"] = [end for _, end in positions]
        return columns

    def _check_questions(self, questions: Sequence[str], *, limit: int) -> None:
        """Refuse questions that leave too little room for the context."""
        ids = self.processor(list(questions), add_special_tokens=False)["input_ids"]
        special = self.processor.num_special_tokens_to_add(pair=True)
        for question, tokens in zip(questions, ids, strict=True):
            if len(tokens) + special >= limit:
                raise DataError(
                    f"the question {question[:60]!r} has {len(tokens)} tokens, which leaves too "
                    f"few of {self.max_length} for the context. Shorten it, or raise max_length if "
                    "the model supports it."
                )

    def _null(self, input_ids: Sequence[int]) -> int:
        """Return the target position of a window without the answer."""
        token = self.processor.cls_token_id
        return input_ids.index(token) if token in input_ids else 0

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad windows, and stack the positions of the answers."""
        batch = pad_texts(self.processor, examples)
        shift = [0] * len(examples)
        if self.processor.padding_side == "left":
            longest = batch["input_ids"].shape[1]
            shift = [longest - len(example["input_ids"]) for example in examples]
        for name in ("start_positions", "end_positions"):
            if name in examples[0]:
                positions = [e[name] + left for e, left in zip(examples, shift, strict=True)]
                batch[name] = torch.tensor(positions)
        return batch

    def infer(self, batch: Mapping[str, Tensor]) -> list[Float[np.ndarray, "2 seq"]]:
        """Compute start and end logits of each token, without the padding."""
        output = self.model(**batch)
        logits = torch.stack([output.start_logits, output.end_logits], 1).float().cpu().numpy()
        mask = batch["attention_mask"].bool().cpu().numpy()
        return [scores[:, is_token] for scores, is_token in zip(logits, mask, strict=True)]

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Return the best span of each context and its start."""
        best = [(-np.inf, 0, 0)] * len(rows["context"])
        for row, spans, logits in zip(examples["row"], examples["span"], outputs, strict=True):
            best[row] = max(best[row], _best_span(np.array(spans), logits))
        return [
            {"answer": context[start:end], "start": start}
            for context, (_, start, end) in zip(rows["context"], best, strict=True)
        ]

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute exact match and F1 over words, as SQuAD defines them."""
        exact_match, f1 = self._squad(predictions, rows).mean(0)
        return {"exact_match": float(exact_match), "f1": float(f1)}

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Return the F1 of each example, over 1."""
        f1 = self._squad(predictions, rows)[:, 1]
        return np.stack([f1, np.ones_like(f1)], axis=1)

    def _squad(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Exact match and F1 of each example, in [0, 1], from torchmetrics.

        NOTE: as in the evaluation script of SQuAD 2.0, two answers without any word but articles
        ("a", "The") have an F1 of 1. The script of SQuAD 1.1 gives them 0.
        """
        text = import_extra("torchmetrics.functional.text", extra="text", purpose="exact match")
        scores = [
            text.squad({"id": "", "prediction_text": answer["answer"]}, {"id": "", "answers": gold})
            for answer, gold in zip(predictions, rows["answers"], strict=True)
        ]
        return np.array([[float(s["exact_match"]), float(s["f1"])] for s in scores]) / 100


def _find_answer(
    spans: Sequence[tuple[int, int]], answers: Mapping[str, Sequence[Any]]
) -> tuple[int, int] | None:
    """Return the first and last token of the first answer if the window contains it."""
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    touched = [index for index, (first, last) in enumerate(spans) if first < end and last > start]
    if not touched or spans[touched[0]][0] > start or spans[touched[-1]][1] < end:
        return None
    return touched[0], touched[-1]


def _best_span(spans: np.ndarray, logits: Float[np.ndarray, "2 seq"]) -> tuple[float, int, int]:
    """Return the highest sum of logits, and the first and last character of its span."""
    positions = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if not len(positions):
        return -np.inf, 0, 0
    starts, ends = logits[:, positions]
    scores = starts[:, None] + ends[None, :]
    offsets = np.arange(len(positions))
    length = offsets[None, :] - offsets[:, None] + 1
    scores = np.where((length >= 1) & (length <= _MAX_ANSWER_LENGTH), scores, -np.inf)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    start, end = spans[positions[first], 0], spans[positions[last], 1]
    return float(scores[first, last]), int(start), int(end)


def load_question_answerer(
    model_name: str, labels: Sequence[str] = (), *, max_length: int | None = None
) -> QuestionAnswerer:
    """Load a model for question answering, with a fresh head if it has none; see `TaskLoader`."""
    require_head(model_name, _MODEL_TYPES, packaged=("minilm",), task=NAME)
    tokenizer = load_fast_tokenizer(model_name, task=NAME)
    model = load_model(model_name, AutoModelForQuestionAnswering)
    return QuestionAnswerer(model, tokenizer, text_limit(model, tokenizer, max_length))


def _answers_feature() -> Any:  # noqa: ANN401
    import datasets

    return {
        "text": datasets.List(datasets.Value("string")),
        "answer_start": datasets.List(datasets.Value("int64")),
    }


def _read_answers(value: object, _table: Table, _name: str) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping) or not {"text", "answer_start"} <= set(value):
        raise BadRow(f'the answers are {quote(value)}, they must be {{"text", "answer_start"}}')
    texts, starts = value["text"], value["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise BadRow("the answers' text and answer_start must be lists of the same length")
    if not texts:
        raise BadRow("the question has no answer (every question needs one, as in SQuAD 1.1)")
    if not all(isinstance(start, int) for start in starts):
        raise BadRow(f"answer_start is {quote(starts)}, it must hold whole numbers")
    return {"text": [read_text(text, "answer") for text in texts], "answer_start": starts}


def _columns(_labels: Sequence[str] | None) -> tuple[Column, ...]:
    return (
        text_column("question"),
        text_column("context"),
        Column("answers", _read_answers, _answers_feature, is_target=True),
    )


def _check(cells: Mapping[str, Any]) -> None:
    if "answers" not in cells:
        return
    for text, start in zip(cells["answers"]["text"], cells["answers"]["answer_start"], strict=True):
        found = cells["context"][start : start + len(text)] if start >= 0 else ""
        if found != text:
            raise BadRow(f"the answer {quote(text)} is not at {start}, where {quote(found)} is")


QUESTION_ANSWERING = TaskKind(
    name=NAME,
    columns=_columns,
    load_rows=row_loader(_columns, _check),
    load=load_question_answerer,
    split_column="context",
)
