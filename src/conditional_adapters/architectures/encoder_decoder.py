"""Any vision encoder with any decoder: the encoder has its own record, the decoder no adapters."""

from ._registry import register_composite

register_composite("vision-encoder-decoder", "encoder")
