"""Training conditional adapters, through transformers' Trainer."""

from .finetune import TrainingSettings as TrainingSettings
from .finetune import finetune as finetune
