"""Pretrain a small T5 from nothing, by span corruption, as a `scratch.yaml` says.

No pretrained text encoder-decoder is packaged, so the experiments make one. Its tokenizer is
trained on the same texts.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from transformers import (
    Adafactor,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from conditional_adapters.toolkit.tasks.kinds.classification import TEXT_CLASSIFICATION
from conditional_adapters.training import PretrainingSettings, SpanCorruption
from conditional_adapters.training.pretrain import minimise

from ._config import Scratch
from ._data import unlabelled_rows

if TYPE_CHECKING:
    import datasets

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"  # 0, 1 and 2, as in T5
_NUM_SENTINELS = 100
_MAX_LENGTH = 512  # tokens of a text, unless less is asked for
_BATCH = 1000  # texts that are tokenised at a time


def run_scratch(scratch: Scratch, output: Path, *, resume: bool) -> dict[str, Any]:
    """Train tokenizer and model, and save both in `output / "model"`.

    Args:
        scratch: What to do.
        output: Folder for the model, checkpoints and the TensorBoard log.
        resume: Go on from the last checkpoint in it.

    Returns:
        What the results keep.
    """
    import datasets
    from transformers import set_seed

    settings = PretrainingSettings(**scratch.settings)
    parts = [unlabelled_rows(data, TEXT_CLASSIFICATION) for data in scratch.data]
    texts = datasets.concatenate_datasets(parts)
    tokenizer = train_tokenizer(texts, scratch.vocabulary)
    blocks = make_blocks(texts, tokenizer, scratch.block)
    set_seed(settings.seed)
    config = T5Config(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        **scratch.model,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    start = perf_counter()
    trainer = minimise(
        model,
        blocks,
        objective=SpanCorruption(tokenizer),
        output=output,
        # All of it is backbone.
        settings=replace(settings, backbone_learning_rate=settings.learning_rate),
        resume=resume,
        optimizer=_optimizer(model, scratch.optimizer, settings.learning_rate),
    )
    seconds = perf_counter() - start
    model.eval().save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    return {
        "texts": len(texts),
        "tokens": scratch.block * len(blocks),
        "parameters": model.num_parameters(),
        "training_seconds": round(seconds, 1),
        "log": [line for line in trainer.state.log_history if "loss" in line],
    }


def _optimizer(model: nn.Module, name: str, learning_rate: float) -> Optimizer | None:
    """The optimiser; None for the default, AdamW."""
    if name == "adamw":
        return None
    optimizer: Optimizer = Adafactor(
        model.parameters(), lr=learning_rate, scale_parameter=True, relative_step=False
    )
    return optimizer


def train_tokenizer(rows: "datasets.Dataset", vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a unigram tokenizer with the special tokens of T5.

    Args:
        rows: With a column `text`.
        vocabulary: Its size, sentinels not counted.

    Returns:
        The tokenizer; it ends each text with `</s>`.
    """
    from tokenizers import SentencePieceUnigramTokenizer
    from tokenizers.processors import TemplateProcessing

    unigram = SentencePieceUnigramTokenizer()
    unigram.train_from_iterator(
        (rows[start : start + _BATCH]["text"] for start in range(0, len(rows), _BATCH)),
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=[_PAD, _END, _UNKNOWN],
        unk_token=_UNKNOWN,
    )
    unigram._tokenizer.post_processor = TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, unigram.token_to_id(_END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram._tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        additional_special_tokens=[f"<extra_id_{index}>" for index in range(_NUM_SENTINELS)],
        model_max_length=_MAX_LENGTH,
    )


def make_blocks(
    rows: "datasets.Dataset", tokenizer: PreTrainedTokenizerFast, size: int
) -> "datasets.Dataset":
    """Put texts after each other, each with its end token, and cut blocks of the same size.

    Args:
        rows: With a column `text`.
        tokenizer: From `train_tokenizer`.
        size: Tokens of a block.

    Returns:
        A column `input_ids`. What is left over at the end is dropped.
    """
    import datasets

    def blocks() -> Iterator[dict[str, list[int]]]:
        waiting: list[int] = []
        for start in range(0, len(rows), _BATCH):
            for tokens in tokenizer(rows[start : start + _BATCH]["text"])["input_ids"]:
                waiting += tokens
                while len(waiting) >= size:
                    yield {"input_ids": waiting[:size]}
                    waiting = waiting[size:]

    return datasets.Dataset.from_list(list(blocks()))
