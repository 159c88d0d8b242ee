"""Any encoder with any decoder: the record of the encoder applies, the decoder stays as it is."""

from ._registry import register_composite

register_composite("vision-encoder-decoder", "encoder")
