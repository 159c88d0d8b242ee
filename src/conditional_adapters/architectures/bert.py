"""BERT and its relatives: positions in the embeddings, masks that hide padding only.

LayoutLM's attention is causal if it gets no mask, so it always gets one. RemBERT and Megatron-BERT
do not pass keyword arguments to their layers and do not call attention functions of transformers,
so k-to-all is not available.
"""

from dataclasses import replace

from ..modules import ArchitectureSpec, TokenAxis
from ._registry import register_architecture

BERT = register_architecture(
    ArchitectureSpec(
        model_types=(
            "bert",
            "bert-generation",
            "camembert",
            "data2vec-text",
            "electra",
            "ernie",
            "roberta",
            "roc_bert",
            "xlm-roberta",
        ),
        layers="encoder.layer",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention.self",
    )
)

DISTILBERT = register_architecture(
    replace(BERT, model_types=("distilbert",), layers="transformer.layer", attention="attention")
)

LAYOUTLM = register_architecture(
    replace(BERT, model_types=("layoutlm",), gathered={"attention_mask": TokenAxis.PAIR_MASK})
)

REMBERT = register_architecture(
    replace(BERT, model_types=("rembert",), passes_context=False, attention=None)
)

MEGATRON_BERT = register_architecture(
    replace(REMBERT, model_types=("megatron-bert",), input_norm="attention.ln")
)

XLM_ROBERTA_XL = register_architecture(
    replace(BERT, model_types=("xlm-roberta-xl",), input_norm="attention.self_attn_layer_norm")
)
