"""A BERT and a T5 of a few thousand parameters whose tokens are characters, in local folders."""

import string

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
ANIMALS, PLANTS = ["cat", "dog", "owl", "fox"], ["oak", "elm", "ash", "yew"]


def tokenizer(words=(), *, is_encoder_decoder=False, padding_side="right"):
    """Whole words for those given, else a token for each character."""
    characters = string.ascii_lowercase + string.digits + ".,?"
    pieces = [*SPECIAL, *words, *characters, *(f"##{c}" for c in characters)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    inner = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    if is_encoder_decoder:
        single, pair = "$A [SEP]", "$A [SEP] $B:1 [SEP]:1"
    inner.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=40,
        padding_side=padding_side,
        model_input_names=["input_ids", "attention_mask"]
        + ([] if is_encoder_decoder else ["token_type_ids"]),
    )


def write_bert(folder, words=(), *, padding_side="right"):
    """Save a random BERT without a head."""
    own = tokenizer(words, padding_side=padding_side)
    own.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(own),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.2,  # so that random layers carry information
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_t5(folder, words=()):
    """Save a random T5."""
    own = tokenizer(words, is_encoder_decoder=True)
    own.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(own),
        d_model=32,
        d_kv=16,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
