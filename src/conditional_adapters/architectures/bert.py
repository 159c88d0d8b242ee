"""BERT and its post-norm relatives: positions are in the embeddings, masks hide padding only."""

from ..modules import TokenAxis
from ._registry import register_architecture
from ._spec import ArchitectureSpec

BERT = register_architecture(
    ArchitectureSpec(
        model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
        layers="encoder.layer",
        gathered={"attention_mask": TokenAxis.PADDING_MASK},
        num_prefix_tokens=1,  # CLS
        attention="attention.self",
    )
)
