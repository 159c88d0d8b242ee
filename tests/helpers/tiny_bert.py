"""A tokenizer of whole words with everything that objectives need, and a BERT that reads it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<extra_id_0>", "<extra_id_1>"]
WORDS = tuple(f"w{index}" for index in range(40))


def word_tokenizer(
    words: Sequence[str] = WORDS, *, max_length: int = 32
) -> PreTrainedTokenizerFast:
    """Make a tokenizer for these words."""
    ids = {name: index for index, name in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="[SEP]",
        model_max_length=max_length,
    )


def write_bert(folder: Path, tokenizer: PreTrainedTokenizerFast, *, num_layers: int = 2) -> Path:
    """Write a BERT of random weights beside its tokenizer; return the folder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=0.2,  # so that random layers carry information
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
