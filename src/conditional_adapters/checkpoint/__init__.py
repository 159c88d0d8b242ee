"""Saving and loading of adapters, in PEFT's file format, locally or from the Hub."""

from .save_load import attach_pretrained as attach_pretrained
from .save_load import load_adapter as load_adapter
from .save_load import read_adapter_config as read_adapter_config
from .save_load import save_adapter as save_adapter
from .save_load import set_saved_reduction_factor as set_saved_reduction_factor
