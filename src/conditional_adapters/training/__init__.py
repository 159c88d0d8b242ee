"""Fine-tuning and pretraining of conditional adapters, by transformers' Trainer."""

from ..checkpoint.save_load import attach_pretrained as attach_pretrained
from .finetune import TrainingSettings as TrainingSettings
from .finetune import finetune as finetune
from .objectives import Distillation as Distillation
from .objectives import MaskedPatches as MaskedPatches
from .objectives import ModelLoss as ModelLoss
from .objectives import Objective as Objective
from .objectives import ObjectiveLoss as ObjectiveLoss
from .pretrain import PretrainingSettings as PretrainingSettings
from .pretrain import pretrain as pretrain
from .router_start import start_routers as start_routers
from .text_objectives import MaskedLanguageModelling as MaskedLanguageModelling
from .text_objectives import SpanCorruption as SpanCorruption
