"""Attention of the selected tokens that can see all tokens.

The frozen attention module runs unchanged on the selected tokens. It looks up its attention
function by name in the registry of transformers, and calls it with the keyword arguments of the
layer. A function that we register can therefore replace the keys and values (k-to-all), and
position scores that the module derived from distances in the gathered sequence. Everything is
passed as an argument; nothing is stored on the module.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ._subclass import DynamicSubclass, add_mixin

# The keyword argument that carries `RoutedTokens` from the layer to the attention function.
ROUTED_ARGUMENT = "coda_routed"
IMPLEMENTATIONS = ("eager", "sdpa")
_PREFIX = "coda_"
# Names of the projections to keys and values, in the order in which they are looked for.
_PROJECTIONS = (
    ("k_proj", "v_proj"),
    ("key", "value"),
    ("k", "v"),
    ("k_lin", "v_lin"),
    ("linear_k", "linear_v"),
)


class RoutedTokens(NamedTuple):
    """The whole sequence of which an attention function gets the selected queries."""

    indices: Int[Tensor, "batch k"]
    seq: int
    states: Float[Tensor, "batch seq hidden"] | None  # input of attention; None: keep the keys
    position_embeddings: Any = None  # tables of all positions, mostly rotary (cos, sin)


class RoutedAttention(DynamicSubclass):
    """Mixin for a frozen attention module; see the module's docstring.

    Attributes:
        coda_config: The configuration that the module reads.
        coda_for_any_keys: Whether the module needs the mixin even if keys are the selected tokens.
    """

    coda_config: "_ConfigView"
    coda_for_any_keys: ClassVar[bool] = False

    @property
    def config(self) -> "_ConfigView":
        """The configuration, with our attention function in the place of the model's."""
        return self.coda_config

    def coda_keys_and_values(
        self, routed: RoutedTokens, head_dim: int
    ) -> tuple[Float[Tensor, "batch heads seq dim"], Float[Tensor, "batch heads seq dim"]]:
        """Project the states of all tokens to keys and values, rotated if the model does so."""
        names = next(pair for pair in _PROJECTIONS if hasattr(self, pair[0]))
        key, value = (
            getattr(self, name)(routed.states).unflatten(-1, (-1, head_dim)).transpose(1, 2)
            for name in names
        )
        return self.coda_rotate(key, routed), value

    def coda_rotate(self, key: Tensor, routed: RoutedTokens) -> Tensor:
        """Rotate keys by their position, if the layer was given rotary tables."""
        if routed.position_embeddings is None:
            return key
        cos, sin = (
            table if table.dim() == 4 else table.unsqueeze(1)
            for table in routed.position_embeddings
        )
        first, second = key.float().chunk(2, dim=-1)
        rotated: Tensor = key.float() * cos + torch.cat([-second, first], dim=-1) * sin
        return rotated.to(key.dtype)

    def coda_position_bias(
        self, query: Float[Tensor, "batch heads k dim"], routed: RoutedTokens
    ) -> Tensor | None:
        """Return position scores of true distances, if the module counts gathered ones."""
        return None


class MaskRoutedAttention(RoutedAttention):
    """Mixin for a module that drops keyword arguments: the mask carries the tokens."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Call the frozen module."""
        routed = kwargs.pop(ROUTED_ARGUMENT, None)
        mask = attention_mask if routed is None else (attention_mask, routed)
        return super().forward(hidden_states, mask, **kwargs)


class _ConfigView:
    """A configuration that names our attention function and is otherwise the model's own."""

    def __init__(self, original: Any) -> None:  # noqa: ANN401
        self.coda_original = original

    @property
    def _attn_implementation(self) -> str:
        return _PREFIX + str(self.coda_original._attn_implementation)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name == "coda_original":  # asked for while a copy is being made
            raise AttributeError(name)
        return getattr(self.coda_original, name)


def route_attention(attention: Any, mixin: type[RoutedAttention]) -> None:  # noqa: ANN401
    """Make a frozen attention module call our attention function."""
    if isinstance(attention, RoutedAttention):
        return
    for name in IMPLEMENTATIONS:
        AttentionInterface.register(_PREFIX + name, _attention_function(name))
    view = _ConfigView(attention.config)
    add_mixin(attention, mixin).coda_config = view


@cache  # one for all layers
def _attention_function(name: str) -> Callable[..., Any]:
    def attend(
        module: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | tuple[Tensor | None, RoutedTokens] | None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        routed: RoutedTokens | None = kwargs.pop(ROUTED_ARGUMENT, None)
        if isinstance(attention_mask, tuple):  # see MaskRoutedAttention
            attention_mask, routed = attention_mask
        if routed is not None:
            if routed.states is not None:
                key, value = module.coda_keys_and_values(routed, query.shape[-1])
            bias = module.coda_position_bias(query, routed)
            if bias is not None:
                kwargs["position_bias"] = bias
        function = _eager(module) if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        return function(module, query, key, value, attention_mask, **kwargs)

    return attend


def _eager(module: RoutedAttention) -> Any:  # noqa: ANN401
    """Return the eager function of the file that defines the module's own class."""
    return sys.modules[module.coda_original_class.__module__].eager_attention_forward
