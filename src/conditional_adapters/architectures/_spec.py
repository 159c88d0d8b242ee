"""What an architecture has to say about itself: one small record."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig

from ..errors import ConfigError
from ..modules import (
    ConditionalLayer,
    DynamicSubclass,
    LayerPlan,
    MaskRole,
    RoutedAttention,
    TokenAxis,
)


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """Where the layers of a model family are and what their arguments mean.

    Paths are relative to the base model (the one without a head), except where said otherwise.

    Attributes:
        model_types: The `config.model_type` of every family that the record describes.
        layers: Path of the encoder's list of layers.
        encoder: Path of the module that gets the users' attention mask and hands its keyword
            arguments on to the layers; "" is the base model itself.
        passes_context: Whether it does hand keyword arguments on; if not, hooks on the layers add
            what the layers need to know.
        mask_argument: Name of the mask among the arguments of `encoder`. If it has none of this
            name, sequences are taken as full.
        mask_source: Path of another module that gets the mask, and hands its keyword arguments on
            to `encoder`, but not the mask.
        token_mask: `token_mask(mask, inputs)` turns a mask in other units (samples, frames of a
            spectrogram) into one over tokens, given the encoder's first argument; None from it
            means that nothing is known.
        mask_role: "padding" if the other tokens are none, or "floor" if the dense layers attend to
            them as to all: each row's budget is then at least the number of its tokens in the mask.
        decoder_layers: Path of the decoder's list of layers; None if the family has no decoder.
        input_norm: The norm at the entry of a layer, relative to the layer, that also feeds router
            and adapter; None for post-norm layers, whose input is normalised already. A function
            of the configuration where that decides.
        gathered: Arguments of a layer that have a token axis, and where.
        num_prefix_tokens: Tokens at the start of every sequence that are always routed.
        num_suffix_tokens: Tokens at the end of every sequence that are always routed.
        prefix_fields: Names of config fields that hold numbers of further prefix tokens.
        attention: Path of the attention module, relative to the layer, if it calls an attention
            function of transformers; None if it does not, and then k-to-all is not available.
        attention_mixin: Makes the attention module look beyond the chosen tokens.
        layer_mixin: Makes the layer conditional.
        submodule_mixins: More submodules of a layer to subclass, by path.
        carried_outputs: Positions in a layer's output tuple that must hold one of its arguments
            for all tokens, by the argument's name.
        prepare_arguments: `prepare(layer, hidden_states, arguments)` completes the arguments for
            all tokens, in place, before they are gathered.
        refuses: `refuses(config)` says what a model of this configuration has that the record does
            not cover; None if it is covered.

    Raises:
        ConfigError: If a record contradicts itself.
    """

    model_types: tuple[str, ...]
    layers: str
    encoder: str = ""
    passes_context: bool = True
    mask_argument: str = "attention_mask"
    mask_source: str | None = None
    token_mask: Callable[[Tensor, Tensor], Tensor | None] | None = None
    mask_role: MaskRole = "padding"
    decoder_layers: str | None = None
    input_norm: str | Callable[[PretrainedConfig], str | None] | None = None
    gathered: Mapping[str, TokenAxis] = field(default_factory=dict)
    num_prefix_tokens: int = 0
    num_suffix_tokens: int = 0
    prefix_fields: tuple[str, ...] = ()
    attention: str | None = None
    attention_mixin: type[RoutedAttention] = RoutedAttention
    layer_mixin: type[ConditionalLayer] = ConditionalLayer
    submodule_mixins: Mapping[str, type[DynamicSubclass]] = field(default_factory=dict)
    carried_outputs: Mapping[int, str] = field(default_factory=dict)
    prepare_arguments: Callable[[nn.Module, Tensor, dict[str, Any]], None] | None = None
    refuses: Callable[[PretrainedConfig], str | None] | None = None

    def __post_init__(self) -> None:
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

    def plan(self, layer: nn.Module, config: PretrainedConfig) -> LayerPlan:
        """Return how to call one layer of a model with this configuration.

        Args:
            layer: Any layer of the list.
            config: The configuration of its model.

        Returns:
            The plan, the same for all layers of the list.
        """
        names = tuple(inspect.signature(layer.forward).parameters)[1:]
        extra = sum(int(getattr(config, name, 0) or 0) for name in self.prefix_fields)
        return LayerPlan(
            argument_names=names,
            gathered=self.gathered,
            input_norm=self.input_norm(config) if callable(self.input_norm) else self.input_norm,
            num_prefix_tokens=self.num_prefix_tokens + extra,
            num_suffix_tokens=self.num_suffix_tokens,
            attention=self.attention,
            attention_mixin=self.attention_mixin,
            carried_outputs=self.carried_outputs,
            prepare_arguments=self.prepare_arguments,
        )
