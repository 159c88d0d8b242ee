"""What turns rows into the input of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .data import Modality


@dataclass(frozen=True)
class Preprocessor:
    """A tokenizer or image processor, and how it is used.

    Attributes:
        processor: The tokenizer or image processor.
        modality: "text" or "image".
        max_length: Tokens per text; longer texts are cut there. None for images.
    """

    processor: Any
    modality: Modality
    max_length: int | None

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn columns of rows into columns of model input.

        Args:
            rows: Columns `text` or `image`, and `label` if there are labels.

        Returns:
            The columns the model takes, unpadded, with `labels` if there are labels.
        """
        if self.modality == "text":
            encoded = self.processor(
                list(rows["text"]), truncation=True, max_length=self.max_length
            )
            columns = {key: list(values) for key, values in encoded.items()}
        else:
            pixels = self.processor(list(rows["image"]), return_tensors="pt")["pixel_values"]
            columns = {"pixel_values": list(pixels)}
        if "label" in rows:
            columns["labels"] = list(rows["label"])
        return columns

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad encoded examples to the longest and stack them.

        Args:
            examples: Encoded rows, at least one.

        Returns:
            A batch of tensors.
        """
        if self.modality == "text":
            return dict(self.processor.pad(list(examples), return_tensors="pt"))
        batch = {"pixel_values": torch.stack([e["pixel_values"] for e in examples])}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([e["labels"] for e in examples])
        return batch
