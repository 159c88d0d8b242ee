"""What every reader of packaged weights returns, and how it becomes a model.

A reader knows one file format and one architecture; from here on all models are treated alike.
The model is built from its configuration and the tensors are copied into its backbone. This is
`from_pretrained` with the opposite attitude to gaps: a tensor of the backbone that is missing,
left over or of another shape is an error, and a fresh head is normal and not worth a warning.
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
    "Names and shapes have to agree. Do not override sizes of the pre-trained configuration. If "
    "you did not, your version of transformers names its modules differently: use the tested one."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A configuration and the weights of the backbone that it describes."""

    config: PreTrainedConfig
    # Names as in the backbone (`BertModel`, ...), without the prefix of a wrapping model.
    state_dict: dict[str, Tensor]
    # The class to build when the caller names none.
    model_class: type = AutoModel
    # Fields of the generation config; empty for a model that does not generate.
    generation: dict[str, object] = field(default_factory=dict)


def configure(
    pretrained: Pretrained, name: str, dtype: torch.dtype | str, overrides: dict[str, object]
) -> PreTrainedConfig:
    """Apply the caller's settings to a copy of the configuration.

    Args:
        pretrained: What a reader returned.
        name: Where the weights come from, the model's `name_or_path`.
        dtype: Of the parameters.
        overrides: Fields of the configuration and `attn_implementation`.

    Returns:
        A new configuration.

    Raises:
        ConfigError: If an override is not a field of the configuration.
    """
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
            f"attn_implementation and the fields of {config_class.__name__}. Correct the name; "
            "move a model to a device with `model.to(...)`."
        )
    return config


def build(
    model_class: type[Any], config: PreTrainedConfig, pretrained: Pretrained
) -> PreTrainedModel:
    """Build a model, copy the pre-trained tensors into its backbone, and set it to evaluation.

    Args:
        model_class: An auto class or a model class of transformers.
        config: The final configuration.
        pretrained: The weights of the backbone.

    Returns:
        The model. Only what the backbone does not contain (a head) is newly initialised.

    Raises:
        AssetError: If the weights do not fit the backbone.
    """
    # NOTE: auto classes have the public `from_config`, which calls `_from_config` of a model
    # class. Calling the class itself would ignore `dtype`.
    from_config = getattr(model_class, "from_config", None) or model_class._from_config
    model = from_config(config)
    _load_backbone(model, pretrained.state_dict)
    if pretrained.generation and model.can_generate():
        model.generation_config = GenerationConfig(**pretrained.generation)
    return model.eval()


def _load_backbone(model: PreTrainedModel, state_dict: dict[str, Tensor]) -> None:
    """Copy the tensors of all parts that the backbone and the file have in common.

    A part is a direct child of the backbone (embeddings, encoder, pooler, ...). A model may lack
    a whole part (no pooler in a token classifier, no decoder in an audio classifier) or add one
    (its head). Inside a common part, names and shapes have to agree exactly.
    """
    backbone = model.base_model
    own_parts = {name for name, _ in backbone.named_children()}
    wanted = {key: tensor for key, tensor in state_dict.items() if _part(key) in own_parts}
    try:
        missing, unexpected = backbone.load_state_dict(wanted, strict=False)
    except RuntimeError as error:
        raise AssetError(
            f"The packaged weights do not fit {type(model).__name__}: {error}. {_REMEDY}"
        ) from error
    # Most models keep the backbone in one module and the head outside of it, so nothing may be
    # missing. Some have their head beside the parts of the backbone: that may be.
    if backbone is model and type(model) is not MODEL_MAPPING[type(model.config)]:
        known_parts = {_part(key) for key in state_dict}
        missing = [key for key in missing if _part(key) in known_parts]
    if missing or unexpected or not wanted:
        raise AssetError(
            f"The packaged weights do not fit {type(model).__name__}: "
            f"missing {missing}, left over {unexpected}. {_REMEDY}"
        )


def _part(key: str) -> str:
    """Return the first component of a parameter's name."""
    return key.partition(".")[0]
