"""Conversion of rows to model input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ._audio import AudioCell, decode_audio
from .data import Modality


@dataclass(frozen=True)
class Preprocessor:
    """Conversion of texts, images or recordings to model input."""

    processor: Any  # a tokenizer, an image processor, or Whisper's processor
    modality: Modality
    max_length: int | None  # tokens at which texts are cut; None for images and speech

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn columns of rows into columns of unpadded model input.

        Args:
            rows: A column `text`, `image` or `audio`, and optionally `label`.

        Returns:
            Model input, with `labels` if there are labels. Windows of speech have an
            `attention_mask` over their frames, 1 up to the end of the speech.

        Raises:
            DataError: If a recording is damaged or longer than the window of the model.
        """
        if self.modality == "text":
            encoded = self.processor(
                list(rows["text"]), truncation=True, max_length=self.max_length
            )
            columns = {key: list(values) for key, values in encoded.items()}
        elif self.modality == "audio":
            columns = self._encode_audio(rows["audio"])
        else:
            pixels = self.processor(list(rows["image"]), return_tensors="pt")["pixel_values"]
            columns = {"pixel_values": list(pixels)}
        if "label" in rows:
            columns["labels"] = list(rows["label"])
        return columns

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack encoded examples, at least one, to a batch."""
        if self.modality == "text":
            return dict(self.processor.pad(list(examples), return_tensors="pt"))
        batch = {
            name: torch.stack([example[name] for example in examples])
            for name in ("pixel_values", "input_features", "attention_mask")
            if name in examples[0]
        }
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([e["labels"] for e in examples])
        return batch

    def _encode_audio(self, cells: Sequence[AudioCell]) -> dict[str, list[Any]]:
        extractor = self.processor.feature_extractor
        recordings = [decode_audio(cell, extractor.sampling_rate) for cell in cells]
        for cell, samples in zip(cells, recordings, strict=True):
            if len(samples) > extractor.n_samples:
                raise DataError(
                    f"the recording {cell['path'] or 'of a row'} has "
                    f"{len(samples) / extractor.sampling_rate:.1f} seconds, but the window of the "
                    f"model has {extractor.n_samples / extractor.sampling_rate:g}. Cut it at "
                    "pauses."
                )
        features = extractor(
            recordings,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {name: list(features[name]) for name in ("input_features", "attention_mask")}
