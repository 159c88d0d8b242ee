"""Find the modules of a model that `attach` changes.

The model may be a task model, an encoder, or either inside a PEFT model. Paths of saved tensors are
relative to the outermost transformers model.
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

# Task models whose head is new for each task and therefore trained by default.
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
    """The modules of a model that conditional adapters use."""

    spec: ArchitectureSpec
    model: PreTrainedModel  # the outermost transformers model
    inner: PreTrainedModel  # the model that the record describes; usually the same
    mask_sources: tuple[nn.Module, ...]  # get the user's attention mask, the encoder last
    encoder: nn.Module  # passes its keyword arguments to the layers
    encoder_layers: nn.ModuleList
    decoder: nn.Module | None  # the parent of the decoder's layers
    decoder_layers: nn.ModuleList | None

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of the model that the record describes."""
        return self.inner.config

    @property
    def runner(self) -> nn.Module:
        """The module that runs the encoder without a decoder, with the head if there is one."""
        return self.encoder if self.config.is_encoder_decoder else self.inner


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """Return the outermost transformers model in `model`, which may be a wrapper around it."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise UnsupportedArchitectureError(
        f"{type(model).__name__} contains no transformers model. Pass a PreTrainedModel (or a PEFT "
        f"model around one) of a known type: {', '.join(supported_architectures())}."
    )


def find_sites(model: nn.Module) -> Sites:
    """Find the modules of a model by the record of its type.

    Raises `UnsupportedArchitectureError` if the type is unknown, if the model is a causal decoder,
    or if the record does not fit its configuration or its modules.
    """
    outer = inner = transformers_model(model)
    while (path := composite_path(inner.config.model_type)) is not None:
        inner = cast("PreTrainedModel", inner.get_submodule(path))
    spec = architecture_of(inner.config.model_type)
    if getattr(inner.config, "is_decoder", False) and not inner.config.is_encoder_decoder:
        raise UnsupportedArchitectureError(
            f"this {inner.config.model_type} model is configured as a causal decoder "
            "(config.is_decoder=True). Selecting the top k tokens reads the whole sequence, so the "
            "outputs would depend on future tokens. Set is_decoder=False to use it as an encoder."
        )
    reason = None if spec.refuses is None else spec.refuses(inner.config)
    if reason is not None:
        raise UnsupportedArchitectureError(
            f"this {inner.config.model_type} model cannot be made conditional: {reason}."
        )
    base = inner.base_model
    layers = _find(base, spec.layers)
    encoder = _find(base, spec.encoder)
    if not isinstance(layers, nn.ModuleList) or encoder is None:
        raise UnsupportedArchitectureError(
            f"{type(base).__name__} has no list of layers at {spec.layers!r}, where the record for "
            f"{inner.config.model_type!r} expects it. The library is tested with transformers 5.23 "
            "and later. If your version is newer, please report it."
        )
    decoder = decoder_layers = None
    if spec.decoder_layers is not None and (found := _find(base, spec.decoder_layers)) is not None:
        decoder_layers = cast("nn.ModuleList", found)
        decoder = _find(base, spec.decoder_layers.rpartition(".")[0])
    source = None if spec.mask_source is None else _find(base, spec.mask_source)
    has_mask = source is not None and spec.mask_argument in signature(source.forward).parameters
    sources = (source, encoder) if source is not None and has_mask else (encoder,)
    return Sites(spec, outer, inner, sources, encoder, layers, decoder, decoder_layers)


def head_names(sites: Sites, requested: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the paths of the modules that are trained and saved with an adapter.

    `requested` is `modules_to_save`: a name matches every module whose path ends with it; None
    means the task head, if the class of the model has one.
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
                f"{type(sites.model).__name__}. Its children are {children}; use one of these or a "
                "module in them."
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
    class_names: set[str] = set()
    for mapping in _HEAD_MAPPINGS:
        for names in getattr(modeling_auto, mapping).values():
            class_names.update((names,) if isinstance(names, str) else names)
    if type(sites.model).__name__ not in class_names:
        return ()
    first_layer = sites.encoder_layers[0]
    # Only the head reads the pooler, which was pretrained for another head.
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
        # PEFT trains and saves this head already.
        and "modules_to_save" not in dict(child.named_children())
    ]
    return tuple(pooler + head if head else [])


def _find(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
