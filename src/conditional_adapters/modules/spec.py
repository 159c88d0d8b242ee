"""The record of an architecture: the places of its layers, and the meaning of their arguments."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig

from ..errors import ConfigError
from ._subclass import DynamicSubclass
from .arguments import TokenAxis
from .attention import RoutedAttention
from .context import MaskRole, TokenMask


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """Where the layers of a model family are, and what their arguments mean.

    Paths are relative to the base model (the one without a head), unless stated otherwise.

    Attributes:
        model_types: The `config.model_type` of every family that the record describes.
        layers: Path of the encoder's list of layers.
        encoder: Path of the module that gets the user's attention mask and hands its keyword
            arguments on to the layers; "" is the base model itself.
        passes_context: Whether the encoder does hand keyword arguments on to its layers.
        mask_argument: Name of the mask among the arguments of `encoder`. If it has none of this
            name, all sequences are full.
        mask_source: Path of another module that gets the mask, and hands its keyword arguments on
            to `encoder`, but not the mask.
        token_mask: `token_mask(mask, inputs)` converts a mask in other units (samples, frames of a
            spectrogram) into one over tokens, given the encoder's first argument; it returns None
            where nothing is known.
        mask_role: "padding": tokens outside the mask are padding. "minimum": the dense layers
            attend to them as to all others, and the budget of an example is at least the number of
            its tokens in the mask.
        decoder_layers: Path of the decoder's list of layers; None if the family has no decoder.
        input_norm: The norm at the entry of a layer, relative to the layer, whose output router
            and adapter read; None for post-norm layers, whose input is normalised. A function of
            the configuration where that decides.
        gathered: The arguments of a layer that have a token axis, and its position.
        num_prefix_tokens: Number of tokens at the start of a sequence that are always selected.
        num_suffix_tokens: Number of tokens at the end of a sequence that are always selected.
        prefix_fields: Names of config fields that hold numbers of further prefix tokens.
        attention: Path of the attention module, relative to the layer, if it calls an attention
            function of transformers; None if it does not, and then k-to-all is not available.
        attention_mixin: Makes the attention module see all tokens.
        layer_mixin: Makes the layer conditional; a subclass of `ConditionalLayer`, which None
            means.
        submodule_mixins: Mixins for further submodules of a layer, by path.
        carried_outputs: Positions in a layer's output tuple that must hold one of its arguments
            for all tokens, by the argument's name.
        prepare_arguments: `prepare(layer, hidden_states, arguments)` completes the arguments for
            all tokens, in place, before they are gathered.
        prepares_dense_layers: Call `prepare_arguments` in layers that process all tokens as well.
        refuses: `refuses(config)` returns the feature of a model that the record does not cover;
            None if it is covered.

    Raises:
        ConfigError: If a record contradicts itself.
    """

    model_types: tuple[str, ...]
    layers: str
    encoder: str = ""
    passes_context: bool = True
    mask_argument: str = "attention_mask"
    mask_source: str | None = None
    token_mask: TokenMask | None = None
    mask_role: MaskRole = "padding"
    decoder_layers: str | None = None
    input_norm: str | Callable[[PretrainedConfig], str | None] | None = None
    gathered: Mapping[str, TokenAxis] = field(default_factory=dict)
    num_prefix_tokens: int = 0
    num_suffix_tokens: int = 0
    prefix_fields: tuple[str, ...] = ()
    attention: str | None = None
    attention_mixin: type[RoutedAttention] = RoutedAttention
    layer_mixin: type[DynamicSubclass] | None = None
    submodule_mixins: Mapping[str, type[DynamicSubclass]] = field(default_factory=dict)
    carried_outputs: Mapping[int, str] = field(default_factory=dict)
    prepare_arguments: Callable[[nn.Module, Tensor, dict[str, Any]], None] | None = None
    prepares_dense_layers: bool = False
    refuses: Callable[[PretrainedConfig], str | None] | None = None

    def __post_init__(self) -> None:
        if self.mask_role == "floor":  # type: ignore[comparison-overlap]
            warnings.warn(
                "mask_role 'floor' is called 'minimum' now.", DeprecationWarning, stacklevel=3
            )
            object.__setattr__(self, "mask_role", "minimum")
        if not self.model_types or isinstance(self.model_types, str):
            raise ConfigError(
                f"model_types must be a non-empty tuple of names, got {self.model_types!r}. "
                "Write ('bert',), with the comma."
            )
        for name in ("num_prefix_tokens", "num_suffix_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.mask_source is not None and not self.passes_context:
            raise ConfigError(
                "mask_source needs an encoder that hands on keyword arguments. Set encoder to the "
                "module that gets the mask, and leave out mask_source."
            )
        for position, name in self.carried_outputs.items():
            if position < 1:
                raise ConfigError(
                    f"carried_outputs[{position}] = {name!r}: position 0 holds the hidden states. "
                    "Give positions from 1."
                )

    def resolve(self, config: PretrainedConfig) -> "ArchitectureSpec":
        """Resolve the fields that depend on the configuration of a model.

        Args:
            config: The configuration.

        Returns:
            A record whose `input_norm` is a path or None, and whose number of prefix tokens
            includes those of `prefix_fields`.
        """
        extra = sum(int(getattr(config, name, 0) or 0) for name in self.prefix_fields)
        return replace(
            self,
            input_norm=self.input_norm(config) if callable(self.input_norm) else self.input_norm,
            num_prefix_tokens=self.num_prefix_tokens + extra,
            prefix_fields=(),
        )
