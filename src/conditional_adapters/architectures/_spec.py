"""What an architecture has to say about itself: one small record."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig

from ..errors import ConfigError
from ..modules import LayerPlan, TokenAxis


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """Where the layers of a model family are and what their arguments mean.

    Paths are relative to the base model (the one without a head), except where said otherwise.

    Attributes:
        model_types: The `config.model_type` of every family that the record describes.
        layers: Path of the encoder's list of layers.
        encoder: Path of the module that gets the users' attention mask and hands its keyword
            arguments on to the layers; "" is the base model itself.
        decoder_layers: Path of the decoder's list of layers; None if the family has no decoder.
        input_norm: The norm at the entry of a layer, relative to the layer, that also feeds router
            and adapter; None for post-norm layers, whose input is normalised already.
        gathered: Arguments of a layer that have a token axis, and where.
        num_prefix_tokens: Tokens at the start of every sequence that are always routed.
        prefix_fields: Names of config fields that hold numbers of further prefix tokens.
        carried_outputs: Positions in a layer's output tuple that must hold one of its arguments
            for all tokens, by the argument's name.
        prepare_arguments: `prepare(layer, hidden_states, arguments)` completes the arguments for
            all tokens, in place, before they are gathered.

    Raises:
        ConfigError: If a record contradicts itself.
    """

    model_types: tuple[str, ...]
    layers: str
    encoder: str = ""
    decoder_layers: str | None = None
    input_norm: str | None = None
    gathered: Mapping[str, TokenAxis] = field(default_factory=dict)
    num_prefix_tokens: int = 0
    prefix_fields: tuple[str, ...] = ()
    carried_outputs: Mapping[int, str] = field(default_factory=dict)
    prepare_arguments: Callable[[nn.Module, Tensor, dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        if not self.model_types or isinstance(self.model_types, str):
            raise ConfigError(
                f"model_types must be a non-empty tuple of names, got {self.model_types!r}. "
                "Write ('bert',), with the comma."
            )
        if self.num_prefix_tokens < 0:
            raise ConfigError(
                f"num_prefix_tokens must be at least 0, got {self.num_prefix_tokens}."
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
            input_norm=self.input_norm,
            num_prefix_tokens=self.num_prefix_tokens + extra,
            carried_outputs=self.carried_outputs,
            prepare_arguments=self.prepare_arguments,
        )
