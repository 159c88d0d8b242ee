"""Find, in any model, the places that `attach` works on.

A user may hand over a task model, a bare encoder, or either of them inside PEFT's wrapper. All are
reduced to the outermost transformers model, whose parameter paths name what is saved.
"""

from dataclasses import dataclass
from inspect import signature
from typing import cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from ..architectures import (
    ArchitectureSpec,
    architecture_of,
    composite_path,
    supported_architectures,
)
from ..errors import ConfigError, UnsupportedArchitectureError

# Families of task models whose head is new for each task and therefore trained by default.
_HEAD_MAPPINGS = (
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
)


@dataclass(frozen=True)
class Sites:
    """The parts of a model that conditional adapters touch."""

    spec: ArchitectureSpec
    model: PreTrainedModel  # the outermost transformers model
    inner: PreTrainedModel  # the model in it that the record describes; mostly the same
    mask_sources: tuple[nn.Module, ...]  # get the users' attention mask, the encoder last
    encoder: nn.Module  # hands its keyword arguments on to the layers
    encoder_layers: nn.ModuleList
    decoder: nn.Module | None  # what holds the decoder's layers
    decoder_layers: nn.ModuleList | None

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of the model that the record describes."""
        return self.inner.config

    @property
    def runner(self) -> nn.Module:
        """What to run for the encoder without a decoder: with its head, if it has one."""
        return self.encoder if self.config.is_encoder_decoder else self.inner


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """Return the outermost transformers model in `model`.

    Args:
        model: A transformers model, or a wrapper around one.

    Returns:
        The model.

    Raises:
        UnsupportedArchitectureError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise UnsupportedArchitectureError(
        f"{type(model).__name__} contains no transformers model. Pass a PreTrainedModel (or a PEFT "
        f"model around one) of a known type: {', '.join(supported_architectures())}."
    )


def find_sites(model: nn.Module) -> Sites:
    """Locate the layers of a model by the record of its type.

    Args:
        model: A transformers model, or a wrapper around one.

    Returns:
        The places.

    Raises:
        UnsupportedArchitectureError: If the type is unknown, is a causal decoder, has a
            configuration that the record does not cover, or the layers are not where it says.
    """
    outer = inner = transformers_model(model)
    while (path := composite_path(inner.config.model_type)) is not None:
        inner = cast("PreTrainedModel", inner.get_submodule(path))
    spec = architecture_of(inner.config.model_type)
    if getattr(inner.config, "is_decoder", False) and not inner.config.is_encoder_decoder:
        raise UnsupportedArchitectureError(
            f"this {inner.config.model_type} model is configured as a causal decoder "
            "(config.is_decoder=True). Choosing the top k tokens reads the whole sequence, so a "
            "causal layer would see the future. Use it as an encoder (is_decoder=False)."
        )
    reason = None if spec.refuses is None else spec.refuses(inner.config)
    if reason is not None:
        raise UnsupportedArchitectureError(
            f"this {inner.config.model_type} model cannot be made conditional: {reason}."
        )
    base = inner.base_model
    decoder_layers = None if spec.decoder_layers is None else _find(base, spec.decoder_layers)
    layers = _find(base, spec.layers)
    encoder = _find(base, spec.encoder)
    if not isinstance(layers, nn.ModuleList) or encoder is None:
        raise UnsupportedArchitectureError(
            f"{type(base).__name__} has no list of layers at {spec.layers!r}, where the record for "
            f"{inner.config.model_type!r} expects it. The tested transformers versions are 5.23 "
            "and later; if yours is newer, please report it."
        )
    decoder = None
    if isinstance(decoder_layers, nn.ModuleList) and spec.decoder_layers is not None:
        decoder = _find(base, spec.decoder_layers.rpartition(".")[0])
    else:
        decoder_layers = None
    source = None if spec.mask_source is None else _find(base, spec.mask_source)
    has_mask = source is not None and spec.mask_argument in signature(source.forward).parameters
    sources = (source, encoder) if source is not None and has_mask else (encoder,)
    return Sites(spec, outer, inner, sources, encoder, layers, decoder, decoder_layers)


def head_names(sites: Sites, requested: tuple[str, ...] | None) -> tuple[str, ...]:
    """Name the modules outside the encoder that are trained and saved with an adapter.

    Args:
        sites: The places of a model.
        requested: `modules_to_save` of the configuration. A name stands for every module whose
            path ends with it; None means the task head, if the class of the model has one.

    Returns:
        Full paths within the transformers model.

    Raises:
        ConfigError: If a requested name fits no module, or one that cannot be copied.
    """
    if requested is None:
        return _task_head(sites)
    names = dict(sites.model.named_modules())
    found: list[str] = []
    for name in requested:
        matches = [path for path in names if path == name or path.endswith(f".{name}")]
        if not matches:
            children = [path for path, _ in sites.model.named_children()]
            raise ConfigError(
                f"modules_to_save names {name!r}, which is no module of "
                f"{type(sites.model).__name__}. Its children are {children}."
            )
        found += matches
    for path in found:
        if any(layer in names[path].modules() for layer in sites.encoder_layers):
            raise ConfigError(
                f"modules_to_save names {path!r}, which contains the encoder's layers. Name a "
                "smaller part, such as the classifier."
            )
    return tuple(dict.fromkeys(found))


def _task_head(sites: Sites) -> tuple[str, ...]:
    class_name = type(sites.model).__name__
    mappings = (getattr(modeling_auto, mapping) for mapping in _HEAD_MAPPINGS)
    if not any(class_name in _flatten(mapping.values()) for mapping in mappings):
        return ()
    first_layer = sites.encoder_layers[0]
    # A pooler feeds the head and nothing else, and was pretrained for another head.
    pooler = [
        name
        for name, module in sites.model.named_modules()
        if name.endswith(".pooler") and module is getattr(sites.model.base_model, "pooler", None)
    ]
    head = [
        name
        for name, child in sites.model.named_children()
        if all(module is not first_layer for module in child.modules())
        and any(True for _ in child.parameters())
        # A head that another method trains and saves already (PEFT) stays with it.
        and "modules_to_save" not in dict(child.named_children())
    ]
    return tuple(pooler + head if head else [])


def _flatten(names: object) -> list[str]:
    flat: list[str] = []
    for name in names:  # type: ignore[attr-defined]
        flat += [name] if isinstance(name, str) else list(name)
    return flat


def _find(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
