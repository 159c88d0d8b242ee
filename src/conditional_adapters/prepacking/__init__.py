"""Prepacked weights: copies of linear weights in the memory layout of the CPU's matrix product."""

from .weights import pack_weights as pack_weights
from .weights import prepack_weights as prepack_weights
from .weights import remove_prepacked_weights as remove_prepacked_weights
from .weights import unpack_weights as unpack_weights
