"""Families whose layers are no function of a subset of tokens, and what to use instead."""

from ._registry import refuse_architecture

refuse_architecture(
    ("led", "longformer"),
    "its attention windows are cut out of the sequence as it stands, so chosen tokens would be "
    "taken for neighbours. 'modernbert' (windows as masks) or 'bart' can be used instead.",
)
refuse_architecture(
    ("big_bird", "bigbird_pegasus"),
    "its attention works on blocks of neighbouring tokens at fixed places of the sequence. "
    "'modernbert' or 'pegasus' can be used instead.",
)
refuse_architecture(
    ("pegasus_x",),
    "its attention works on blocks of neighbouring tokens, and each layer updates global tokens "
    "from the whole sequence. 'pegasus' can be used instead.",
)
refuse_architecture(
    ("longt5",),
    "both kinds of its attention work on blocks of neighbouring tokens, one of them with sums of "
    "whole blocks. 't5' has no maximum length and can be used instead.",
)
refuse_architecture(
    ("convbert",),
    "each layer convolves over neighbouring tokens. 'electra' can be used instead.",
)
refuse_architecture(
    ("swin", "swinv2", "donut-swin"),
    "its attention cuts the image into windows, and patches are merged between stages. 'vit' or "
    "'dinov2' can be used instead.",
)
refuse_architecture(
    ("switch_transformers", "nllb-moe"),
    "each expert takes a limited number of tokens, so what happens to one depends on which others "
    "are processed. 't5' or 'm2m_100' can be used instead.",
)
refuse_architecture(
    ("fnet",),
    "it mixes tokens by a Fourier transform over the whole sequence. 'bert' can be used instead.",
)
refuse_architecture(
    ("funnel",),
    "it pools neighbouring tokens, so its layers see sequences of different lengths. 'bert' can be "
    "used instead.",
)
