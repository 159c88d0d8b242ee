"""Classification by an encoder-decoder that writes the name of the class, as T5 does it.

transformers' own head for T5 lets the decoder read the whole text as well, so it would not depend
on what the encoder makes of it. Here the decoder starts with nothing. A class is chosen by its
probability, among the names of all classes, so that nothing else can be written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from conditional_adapters.toolkit.tasks._collate import pad_targets
from conditional_adapters.toolkit.tasks.kinds.classification import TEXT_CLASSIFICATION
from conditional_adapters.toolkit.tasks.kinds.summarization import Summariser, load_summariser
from conditional_adapters.toolkit.tasks.metrics import score_labels, tally_labels
from conditional_adapters.toolkit.tasks.task import (
    Columns,
    Prediction,
    Quality,
    TaskDefaults,
    TaskKind,
)

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class LabelWriter(TaskDefaults):
    """An encoder-decoder that writes the name of the class of a text: a `Task`.

    Attributes:
        writer: The same model as one that writes summaries.
        labels: The names of the classes.
        name: As in `Task`, like all that follow.
        inputs: What the model reads.
        quality: Accuracy.
    """

    writer: Summariser
    labels: tuple[str, ...]

    name = TEXT_CLASSIFICATION.name
    inputs = ("text",)
    quality = Quality(name="accuracy")

    @property
    def model(self) -> PreTrainedModel:
        """The encoder-decoder."""
        return self.writer.model

    @property
    def max_length(self) -> int:
        """Tokens of a text at most."""
        return self.writer.max_length

    def encode(self, rows: Columns) -> dict[str, list[Any]]:
        """Tokenise texts, and the names of their classes as targets."""
        columns: dict[str, Sequence[Any]] = {"text": rows["text"]}
        if "label" in rows:
            columns["target"] = [self.labels[label] for label in rows["label"]]
        return self.writer.encode(columns)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad texts and names."""
        return self.writer.collate(examples)

    def infer(self, batch: Mapping[str, Tensor]) -> list[Float[np.ndarray, " classes"]]:
        """Compute the probability of each name, among all names."""
        names = self.writer.encode({"text": self.labels, "target": self.labels})["labels"]
        num_rows, num_names = len(batch["input_ids"]), len(names)
        # Every text with every name: (rows x names, length).
        targets = pad_targets(names).to(self.model.device).repeat(num_rows, 1)
        encoder = self.model.get_encoder()
        states = encoder(**batch).last_hidden_state.repeat_interleave(num_names, 0)
        logits = self.model(
            encoder_outputs=(states,),
            attention_mask=batch["attention_mask"].repeat_interleave(num_names, 0),
            labels=targets,
        ).logits
        losses = cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        scores = (-losses.sum(-1)).view(num_rows, num_names).softmax(-1)
        return list(scores.cpu().numpy())

    def decode(self, rows: Columns, examples: Columns, outputs: Sequence[Any]) -> list[Prediction]:
        """Name the most probable class."""
        return [{"label": self.labels[int(scores.argmax())]} for scores in outputs]

    def score(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> dict[str, float]:
        """Compute accuracy and macro-averaged F1."""
        return score_labels(predictions, self.labels, rows)

    def tally(
        self, predictions: Sequence[Prediction], rows: "datasets.Dataset"
    ) -> Float[np.ndarray, "rows 2"]:
        """Give one point for a right row."""
        return tally_labels(predictions, self.labels, rows)


def _load(model_name: str, labels: Sequence[str], *, max_length: int | None = None) -> LabelWriter:
    return LabelWriter(load_summariser(model_name, max_length=max_length), tuple(labels))


LABEL_WRITING = TaskKind(
    name=TEXT_CLASSIFICATION.name,
    columns=TEXT_CLASSIFICATION.columns,
    load_rows=TEXT_CLASSIFICATION.load_rows,
    load=_load,
    split_column=TEXT_CLASSIFICATION.split_column,
    labels_of=TEXT_CLASSIFICATION.labels_of,
)
