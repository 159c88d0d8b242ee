"""The configuration of conditional adapters for PEFT."""

import copy
import enum
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, fields
from typing import Any

from peft import PeftConfig
from torch import nn

from .._version import __version__
from ..checkpoint.files import PEFT_TYPE
from ..checkpoint.model_kind import check_model_kind, model_kind
from ..config import ConditionalAdapterConfig
from ..errors import ConfigError
from ..model.structure import transformers_model
from ..modules import AttentionMode
from ..modules.router import Gate, RouterKind
from ..ops import SoftTopKMethod

_DEFAULTS = ConditionalAdapterConfig()
# PEFT's model classes for tasks append these to `modules_to_save`.
_HEADS_OF_TASKS = (["classifier", "score"], ["qa_outputs"])


class PeftType(str, enum.Enum):  # noqa: UP042  PEFT's enum is no StrEnum
    """The type "CODA". It behaves like a member of PEFT's enum, which cannot be extended."""

    CODA = PEFT_TYPE


@dataclass
class ConditionalAdapterPeftConfig(PeftConfig):
    """The fields of `ConditionalAdapterConfig`, and those of every PEFT configuration.

    As in PEFT, `task_type` "SEQ_CLS", "TOKEN_CLS" and "QUESTION_ANS" always train the head.

    Attributes:
        reduction_factor: See `ConditionalAdapterConfig`, here and below.
        adapter_dim: Width of the bottleneck.
        adapter_activation: Its non-linearity.
        attention_mode: "k_to_k" or "k_to_all".
        epsilon: Temperature of the soft top-k.
        soft_topk: "exact" or "iterative".
        gate: "weighted" or "straight_through".
        dense_layers: Encoder layers that process every token.
        adapt_decoder: Add adapters to the decoder.
        train_norms: Train the layer norms.
        modules_to_save: Further modules to train and save; None means the task head.
        router_kind: "learned", or a baseline.
        model_type: Type of the model that the adapter was made for; set automatically.
        model_class: Its class; set automatically.
        library_version: Ignored. Files have it.
        tensors_sha256: Ignored. Files have it.

    Raises:
        ConfigError: If a value is outside its range.
    """

    reduction_factor: float | tuple[float, ...] = _DEFAULTS.reduction_factor
    adapter_dim: int = _DEFAULTS.adapter_dim
    adapter_activation: str = _DEFAULTS.adapter_activation
    attention_mode: AttentionMode = _DEFAULTS.attention_mode
    epsilon: float = _DEFAULTS.epsilon
    soft_topk: SoftTopKMethod = _DEFAULTS.soft_topk
    gate: Gate = _DEFAULTS.gate
    dense_layers: Sequence[int] = _DEFAULTS.dense_layers
    adapt_decoder: bool = _DEFAULTS.adapt_decoder
    train_norms: bool = _DEFAULTS.train_norms
    modules_to_save: list[str] | None = None
    router_kind: RouterKind = _DEFAULTS.router_kind
    model_type: str | None = None
    model_class: str | None = None
    library_version: InitVar[str | None] = None
    tensors_sha256: InitVar[str | None] = None

    def __post_init__(self, library_version: str | None, tensors_sha256: str | None) -> None:
        super().__post_init__()
        self.peft_type = PeftType.CODA
        if self.modules_to_save is not None:
            self.modules_to_save = list(self.modules_to_save)  # PEFT appends to it
        self.to_config()

    def to_config(self) -> ConditionalAdapterConfig:
        """Return the configuration for `attach`, checked."""
        names = [field.name for field in fields(ConditionalAdapterConfig)]
        return ConditionalAdapterConfig.from_dict({name: getattr(self, name) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of `adapter_config.json`."""
        return {**super().to_dict(), "library_version": __version__}

    def made_for(self, model: nn.Module) -> "ConditionalAdapterPeftConfig":
        """Return a copy with the kind and the heads of a model."""
        check_model_kind(model, vars(self), "this configuration is of")
        made = copy.copy(self)
        for name, value in model_kind(model).items():
            setattr(made, name, value)
        made.modules_to_save = _requested_heads(self.modules_to_save, transformers_model(model))
        return made


def _requested_heads(names: list[str] | None, model: nn.Module) -> list[str] | None:
    """Replace the names that PEFT appended for a task by the full paths of the model's heads."""
    for appended in _HEADS_OF_TASKS:
        if names is None or names[-len(appended) :] != appended:
            continue
        while names[-len(appended) :] == appended:  # once for each model the object was used with
            names = names[: -len(appended)]
        # PEFT wraps all modules with such names, unless the adapter owns them.
        paths = [path for path, _ in model.named_modules() if path.endswith(tuple(appended))]
        if not paths:
            raise ConfigError(
                f"the task_type trains a head named {' or '.join(appended)}, but this "
                f"{type(model).__name__} has none. Leave out task_type, or use a model with a head."
            )
        return [*names, *paths] if names else None
    return names
