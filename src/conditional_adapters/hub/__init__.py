"""Publish adapters: model card, measurements, and the upload itself."""

from .measurements import Measurement as Measurement
from .model_card import record_measurements as record_measurements
from .model_card import write_model_card as write_model_card
from .push import push_to_hub as push_to_hub
