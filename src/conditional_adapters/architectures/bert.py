"""BERT and its post-norm relatives: positions are in the embeddings, masks hide padding only.

LayoutLM's attention counts as causal where it is given no mask, so it always gets one.
"""

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

LAYOUTLM = register_architecture(
    ArchitectureSpec(
        model_types=("layoutlm",),
        layers="encoder.layer",
        gathered={"attention_mask": TokenAxis.PAIR_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention.self",
    )
)
