"""Encoders of text."""

from dataclasses import replace

import transformers as hf

from ._builder import (
    ENCODER,
    HEADS,
    HIDDEN,
    LAYERS,
    VOCABULARY,
    TinyModel,
    builder,
    text_inputs,
)

PADDINGS = ("none", "right", "left")
BERT = ENCODER | {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "num_labels": 3}

NO_CHECKPOINTING = {
    "test_gradient_checkpointing_gives_the_same_gradients": "transformers does not offer it"
}


def bert_like(
    model_class: type,
    config_class: type,
    first_position: int | None = 0,
    **settings: object,
) -> TinyModel:
    """Build a family with CLS and BERT's names of settings."""
    return TinyModel(
        builder(model_class, config_class, **(BERT | settings)),
        text_inputs,
        num_prefix_tokens=1,
        paddings=PADDINGS,
        first_position=first_position,
    )


def deberta_like(**settings: object) -> TinyModel:
    """Build a family with position scores between contents and distances, in 16 buckets."""
    tiny = bert_like(
        hf.DebertaV2ForSequenceClassification,
        hf.DebertaV2Config,
        None,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        **settings,
    )
    return replace(tiny, attentions=("eager",), has_k_to_all=False, extra_rows=(16,))


TEXT_MODELS = {
    "bert": bert_like(hf.BertForSequenceClassification, hf.BertConfig),
    "bert-generation": bert_like(hf.BertGenerationEncoder, hf.BertGenerationConfig),
    "camembert": bert_like(hf.CamembertForSequenceClassification, hf.CamembertConfig, 2),
    "data2vec-text": bert_like(hf.Data2VecTextForSequenceClassification, hf.Data2VecTextConfig, 2),
    "electra": bert_like(
        hf.ElectraForSequenceClassification, hf.ElectraConfig, embedding_size=HIDDEN
    ),
    "ernie": bert_like(hf.ErnieForSequenceClassification, hf.ErnieConfig),
    "roberta": bert_like(hf.RobertaForSequenceClassification, hf.RobertaConfig, 2),
    "roc_bert": bert_like(
        hf.RoCBertForSequenceClassification,
        hf.RoCBertConfig,
        pronunciation_embed_dim=8,
        pronunciation_vocab_size=5,
        shape_embed_dim=8,
        shape_vocab_size=5,
    ),
    "xlm-roberta": bert_like(hf.XLMRobertaForSequenceClassification, hf.XLMRobertaConfig, 2),
    "layoutlm": bert_like(hf.LayoutLMForSequenceClassification, hf.LayoutLMConfig),
    "distilbert": TinyModel(
        builder(
            hf.DistilBertForSequenceClassification,
            hf.DistilBertConfig,
            vocab_size=VOCABULARY,
            dim=HIDDEN,
            n_layers=LAYERS,
            n_heads=HEADS,
            hidden_dim=48,
            max_position_embeddings=40,
            num_labels=3,
        ),
        text_inputs,
        num_prefix_tokens=1,
        paddings=PADDINGS,
        first_position=0,
    ),
    "albert": replace(
        bert_like(
            hf.AlbertForSequenceClassification,
            hf.AlbertConfig,
            embedding_size=16,
            num_hidden_groups=1,
            inner_group_num=2,
        ),
        skips=NO_CHECKPOINTING,
    ),
    "mpnet": replace(
        bert_like(hf.MPNetForSequenceClassification, hf.MPNetConfig, 2),
        attentions=("eager",),
        has_k_to_all=False,
        skips=NO_CHECKPOINTING,
    ),
    "nomic_bert": bert_like(hf.NomicBertForSequenceClassification, hf.NomicBertConfig),
    "gte": bert_like(hf.GteForSequenceClassification, hf.GteConfig, pad_token_id=0),
    "jina_embeddings_v3": bert_like(
        hf.JinaEmbeddingsV3ForSequenceClassification, hf.JinaEmbeddingsV3Config
    ),
    "modernbert": bert_like(
        hf.ModernBertForSequenceClassification,
        hf.ModernBertConfig,
        num_hidden_layers=4,  # the first and the last look at all tokens
        local_attention=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    "roberta-prelayernorm": bert_like(
        hf.RobertaPreLayerNormForSequenceClassification, hf.RobertaPreLayerNormConfig, 2
    ),
    "xlm-roberta-xl": bert_like(hf.XLMRobertaXLForSequenceClassification, hf.XLMRobertaXLConfig, 2),
    "esm": bert_like(
        hf.EsmForSequenceClassification,
        hf.EsmConfig,
        position_embedding_type="rotary",
        pad_token_id=0,
        mask_token_id=1,
    ),
    "eurobert": bert_like(
        hf.EuroBertForSequenceClassification,
        hf.EuroBertConfig,
        None,
        classifier_pooling="bos",
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        mask_token_id=1,
    ),
    "deberta-v2": replace(
        deberta_like(conv_kernel_size=3),
        skips={
            "test_output_hidden_states_hold_every_token_of_every_layer": (
                "the dense encoder records the first layer's states after its convolution"
            )
        },
    ),
    "deberta-v3": replace(
        deberta_like(share_att_key=True, norm_rel_ebd="layer_norm"),
        skips={
            "test_gradient_checkpointing_gives_the_same_gradients[deberta-v3-k_to_k-True]": (
                "dense layers share the trained norm of distances, which the reentrant kind of "
                "checkpointing cannot go through twice"
            )
        },
    ),
    "rembert": replace(
        bert_like(
            hf.RemBertForSequenceClassification,
            hf.RemBertConfig,
            input_embedding_size=16,
            output_embedding_size=16,
        ),
        attentions=("eager",),
        has_k_to_all=False,
    ),
    "megatron-bert": replace(
        bert_like(hf.MegatronBertForSequenceClassification, hf.MegatronBertConfig),
        attentions=("eager",),
        has_k_to_all=False,
    ),
}
