"""The common result of all readers of packaged weights, and how a model is built from it.

In contrast to `from_pretrained`, a missing, left-over or differently shaped tensor of the backbone
is an error, and a newly initialised head is no reason for a warning.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from ...errors import AssetError, ConfigError

_REMEDY = (
    "Names and shapes must agree. Do not override sizes of the pretrained configuration. If you "
    "did not, your version of transformers uses other module names: install the tested version."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A configuration and the weights of the backbone that it describes."""

    config: PreTrainedConfig
    # Names as in the backbone (`BertModel`, ...), without the prefix of a model with a head.
    state_dict: dict[str, Tensor]
    # Default of `load_packaged_model`.
    model_class: type = AutoModel
    # Fields of the generation config; empty for a model that does not generate.
    generation: dict[str, object] = field(default_factory=dict)


def configure(
    pretrained: Pretrained, name: str, dtype: torch.dtype | str, overrides: dict[str, object]
) -> PreTrainedConfig:
    """Apply the caller's overrides, and `attn_implementation`, to a copy of the configuration."""
    config_class = type(pretrained.config)
    config, unknown = config_class.from_dict(
        pretrained.config.to_diff_dict(),
        return_unused_kwargs=True,
        name_or_path=name,
        dtype=dtype,
        **overrides,
    )
    if unknown:
        raise ConfigError(
            f"{', '.join(sorted(unknown))} cannot be set on {name}. Allowed are dtype, "
            f"attn_implementation and the fields of {config_class.__name__}. Correct the name. "
            "Use `model.to(...)` for a device."
        )
    return config


def build(
    model_class: type[Any], config: PreTrainedConfig, pretrained: Pretrained
) -> PreTrainedModel:
    """Build a model in evaluation mode, with a new head where the backbone has none."""
    # NOTE: calling the class itself would ignore `dtype`.
    from_config = getattr(model_class, "from_config", None) or model_class._from_config
    model = from_config(config)
    _load_backbone(model, pretrained.state_dict)
    if pretrained.generation and model.can_generate():
        model.generation_config = GenerationConfig(**pretrained.generation)
    return model.eval()


def _load_backbone(model: PreTrainedModel, state_dict: dict[str, Tensor]) -> None:
    """Copy the tensors of all children that the backbone and the file have in common.

    A model may lack a direct child of the backbone (no pooler in a token classifier, no decoder in
    an audio classifier) or add one (its head). Names and shapes in common children must agree.
    """
    backbone = model.base_model
    children = {name for name, _ in backbone.named_children()}
    wanted = {key: tensor for key, tensor in state_dict.items() if _child(key) in children}
    try:
        missing, unexpected = backbone.load_state_dict(wanted, strict=False)
    except RuntimeError as error:
        raise AssetError(
            f"The packaged weights do not fit {type(model).__name__}: {error}. {_REMEDY}"
        ) from error
    # Nothing may be missing, except for a head among the children of the backbone.
    if backbone is model and type(model) is not MODEL_MAPPING[type(model.config)]:
        knchildren = {_child(key) for key in state_dict}
        missing = [key for key in missing if _child(key) in knchildren]
    if missing or unexpected or not wanted:
        raise AssetError(
            f"The packaged weights do not fit {type(model).__name__}: "
            f"missing {missing}, left over {unexpected}. {_REMEDY}"
        )


def _child(key: str) -> str:
    return key.partition(".")[0]
