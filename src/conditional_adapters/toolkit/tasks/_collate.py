"""Take encoded rows apart, and pad texts and their targets to the longest of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # a target that transformers' losses pass over


def examples_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Turn columns of encoded rows into one mapping for each example."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def pad_texts(tokenizer: Any, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:  # noqa: ANN401
    """Pad what the tokenizer made.

    Args:
        tokenizer: It pads on its own side.
        examples: Tokenised texts, with or without further columns, which are left out.

    Returns:
        The input of the model.
    """
    names = [name for name in tokenizer.model_input_names if name in examples[0]]
    texts = [{name: example[name] for name in names} for example in examples]
    return dict(tokenizer.pad(texts, return_tensors="pt"))


def pad_targets(targets: Sequence[Sequence[int]], *, side: str = "right") -> Tensor:
    """Pad targets with what the loss passes over.

    Args:
        targets: A sequence of class numbers or tokens for each example.
        side: Where the padding goes, "left" or "right".

    Returns:
        A tensor `[batch, longest]`.
    """
    return torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(target, dtype=torch.int64) for target in targets],
        batch_first=True,
        padding_value=IGNORED,
        padding_side=side,
    )
