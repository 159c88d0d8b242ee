"""Families whose layers are not a function of a subset of tokens, and alternatives."""

from ._registry import refuse_architecture

refuse_architecture(
    ("led", "longformer"),
    "its attention windows are slices of the sequence, so selected tokens would count as "
    "neighbours. Use 'modernbert' (windows as masks) or 'bart' instead.",
)
refuse_architecture(
    ("big_bird", "bigbird_pegasus"),
    "its attention works on blocks of neighbouring tokens at fixed positions. Use 'modernbert' or "
    "'pegasus' instead.",
)
refuse_architecture(
    ("pegasus_x",),
    "its attention works on blocks of neighbouring tokens, and each layer updates global tokens "
    "from the whole sequence. Use 'pegasus' instead.",
)
refuse_architecture(
    ("longt5",),
    "its attention works on blocks of neighbouring tokens, or on sums of whole blocks. Use 't5' "
    "instead, which has no maximum length.",
)
refuse_architecture(
    ("convbert",), "each layer convolves over neighbouring tokens. Use 'electra' instead."
)
refuse_architecture(
    ("swin", "swinv2", "donut-swin"),
    "its attention splits the image into windows, and it merges patches between stages. Use 'vit' "
    "or 'dinov2' instead.",
)
refuse_architecture(
    ("switch_transformers", "nllb-moe"),
    "each expert has a limited capacity, so the output of a token depends on which other tokens "
    "are processed. Use 't5' or 'm2m_100' instead.",
)
refuse_architecture(
    ("fnet",),
    "it mixes tokens by a Fourier transform over the whole sequence. Use 'bert' instead.",
)
refuse_architecture(
    ("funnel",),
    "it pools neighbouring tokens, so its layers get sequences of different lengths. Use 'bert' "
    "instead.",
)
