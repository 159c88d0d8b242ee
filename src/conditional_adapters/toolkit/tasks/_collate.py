"""Conversion of encoded columns to examples, and padding of examples to a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # targets that transformers' losses ignore


def examples_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Turn encoded columns into one mapping per example."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def pad_texts(tokenizer: Any, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:  # noqa: ANN401
    """Pad tokenised texts on the tokenizer's side; drops columns that it did not make."""
    names = [name for name in tokenizer.model_input_names if name in examples[0]]
    texts = [{name: example[name] for name in names} for example in examples]
    return dict(tokenizer.pad(texts, return_tensors="pt"))


def pad_targets(targets: Sequence[Sequence[int]], *, side: str = "right") -> Tensor:
    """Pad targets, one sequence per example, with `IGNORED` on the "left" or "right" side."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(target, dtype=torch.int64) for target in targets],
        batch_first=True,
        padding_value=IGNORED,
        padding_side=side,
    )
