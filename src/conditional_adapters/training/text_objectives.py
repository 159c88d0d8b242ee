"""Objectives that text models were pretrained with: predict masked text with the model's head."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
)

from ..errors import ConfigError
from .objectives import Batch, Examples, Objective

_IGNORED = -100  # label of a token that does not count in the loss


class MaskedLanguageModelling(Objective):
    """Predict masked tokens, with the head that the model was pretrained with.

    Args:
        tokenizer: Of a model with a masked-language head; it has a mask token.
        masked_share: Share of the tokens to predict, in (0, 1). Of these 80 % are masked, 10 %
            replaced by random tokens and 10 % unchanged.

    Raises:
        ConfigError: If the tokenizer has no mask token or the share is out of range.

    Source:
        BERT, arXiv:1810.04805, by transformers' collator.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, masked_share: float = 0.15) -> None:
        if tokenizer.mask_token is None:
            raise ConfigError(
                f"{type(tokenizer).__name__} has no mask token, which masked language modelling "
                "needs. Use distillation."
            )
        _check_share("masked_share", masked_share)
        self.masker = DataCollatorForLanguageModeling(tokenizer, mlm_probability=masked_share)

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Pad the examples and mask tokens, at least one in the batch."""
        self.masker.generator = generator
        for _ in range(100):
            batch = dict(self.masker(list(examples)))
            if bool((batch["labels"] != _IGNORED).any()):
                break
        return batch


class SpanCorruption(Objective):
    """Replace spans of tokens by sentinels, and let the decoder write them, as in T5.

    Args:
        tokenizer: It has the sentinels `<extra_id_0>`, `<extra_id_1>`, ...
        corrupted_share: Share of the tokens in spans, in (0, 1).
        mean_length: Mean number of tokens in a span, >= 1.

    Raises:
        ConfigError: If the tokenizer has no sentinels or a number is out of range.

    Source:
        T5, arXiv:1910.10683: 15 % in spans of 3; a text starts outside a span.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        corrupted_share: float = 0.15,
        mean_length: float = 3.0,
    ) -> None:
        vocabulary, sentinels = tokenizer.get_vocab(), list[int]()
        while (name := f"<extra_id_{len(sentinels)}>") in vocabulary:
            sentinels.append(vocabulary[name])
        if not sentinels:
            raise ConfigError(
                f"{type(tokenizer).__name__} has no sentinels (<extra_id_0>, ...), which span "
                "corruption needs. Use distillation."
            )
        _check_share("corrupted_share", corrupted_share)
        if mean_length < 1:
            raise ConfigError(f"mean_length must be at least 1, got {mean_length}.")
        self.sentinels = sentinels
        self.corrupted_share, self.mean_length = corrupted_share, mean_length
        self.pad_token, self.end_token = tokenizer.pad_token_id, tokenizer.eos_token_id

    def collate(self, examples: Examples, generator: torch.Generator) -> Batch:
        """Corrupt the examples and pad inputs and labels."""
        seed = int(torch.randint(2**62, (), generator=generator))
        rng = np.random.default_rng(seed)
        pairs = [self.corrupt(list(example["input_ids"]), rng) for example in examples]
        input_ids = _pad_right([tokens for tokens, _ in pairs], self.pad_token)
        lengths = torch.tensor([len(tokens) for tokens, _ in pairs])
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": _pad_right([labels for _, labels in pairs], _IGNORED),
        }

    def corrupt(self, tokens: list[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Split a text into the input of the encoder and the labels of the decoder.

        Args:
            tokens: A text, with or without the end token.
            rng: Chooses the spans.

        Returns:
            The text with sentinels in place of spans, and the spans, each after its sentinel; both
            with the end token. A text of one token is not corrupted.
        """
        tokens = tokens[:-1] if tokens[-1:] == [self.end_token] else tokens
        size = len(tokens)
        num_corrupted = min(max(round(size * self.corrupted_share), 1), size - 1)
        inputs: list[int] = []
        labels: list[int] = []
        if num_corrupted < 1:
            return [*tokens, self.end_token], [self.end_token]
        limit = min(num_corrupted, size - num_corrupted, len(self.sentinels))
        num_spans = min(max(round(num_corrupted / self.mean_length), 1), limit)
        kept_lengths = _random_lengths(size - num_corrupted, num_spans, rng)
        span_lengths = _random_lengths(num_corrupted, num_spans, rng)
        start = 0
        for sentinel, kept, span in zip(self.sentinels, kept_lengths, span_lengths, strict=False):
            inputs += [*tokens[start : start + kept], sentinel]
            labels += [sentinel, *tokens[start + kept : start + kept + span]]
            start += kept + span
        return [*inputs, self.end_token], [*labels, self.end_token]


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{name} must be between 0 and 1, got {value}.")


def _random_lengths(total: int, num_spans: int, rng: np.random.Generator) -> list[int]:
    """Divide a number into positive summands, uniformly over all divisions."""
    cuts = np.sort(rng.choice(total - 1, num_spans - 1, replace=False)) + 1
    return [int(n) for n in np.diff([0, *cuts, total])]


def _pad_right(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    tensors = [torch.tensor(sequence, dtype=torch.int64) for sequence in sequences]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
