"""Encoders of text."""

import transformers as hf

from ._builder import ENCODER, HIDDEN, VOCABULARY, TinyModel, builder, text_inputs

PADDINGS = ("none", "right", "left")
BERT = ENCODER | {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "num_labels": 3}


def bert_like(
    model_class: type, config_class: type, first_position: int = 0, **settings: object
) -> TinyModel:
    """Build a family with CLS, absolute positions and BERT's names of settings."""
    return TinyModel(
        builder(model_class, config_class, **(BERT | settings)),
        text_inputs,
        num_prefix_tokens=1,
        paddings=PADDINGS,
        first_position=first_position,
    )


TEXT_MODELS = {
    "bert": bert_like(hf.BertForSequenceClassification, hf.BertConfig),
    "roberta": bert_like(hf.RobertaForSequenceClassification, hf.RobertaConfig, 2),
    "electra": bert_like(
        hf.ElectraForSequenceClassification, hf.ElectraConfig, embedding_size=HIDDEN
    ),
}
