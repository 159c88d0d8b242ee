"""BEiT: as ViT, with relative position biases, either shared by all layers or one per layer.

A shared bias is part of the attention mask. A layer with its own bias would compute it for the
number of tokens it gets, so it gets the bias of the selected pairs as an argument instead.
"""

from typing import Any

from torch import Tensor, nn

from ..modules import ArchitectureSpec, DynamicSubclass, TokenAxis
from ._registry import register_architecture


class GivenBias(DynamicSubclass):
    """Relative position bias that may be given, in an argument that the layer passes through."""

    def forward(
        self,
        window_size: tuple[int, int],
        interpolate_pos_encoding: bool | Tensor = False,
        dim_size: int | None = None,
    ) -> Any:  # noqa: ANN401
        """Return the given bias, or compute that of all pairs."""
        if isinstance(interpolate_pos_encoding, Tensor):
            return interpolate_pos_encoding
        return super().forward(window_size, interpolate_pos_encoding, dim_size)


def _prepare_bias(layer: nn.Module, hidden_states: Tensor, arguments: dict[str, Any]) -> None:
    """Compute the layer's own bias for all tokens."""
    patch_size: Any = layer.patch_size
    if layer.relative_position_bias is not None:
        window = tuple(size // patch_size for size in arguments["resolution"])
        arguments["interpolate_pos_encoding"] = layer.get_submodule("relative_position_bias")(
            window, arguments["interpolate_pos_encoding"], hidden_states.shape[1]
        )


BEIT = register_architecture(
    ArchitectureSpec(
        model_types=("beit",),
        layers="layers",
        input_norm="layernorm_before",
        gathered={
            "attention_mask": TokenAxis.PAIR_MASK,
            "interpolate_pos_encoding": TokenAxis.PAIR,
        },
        num_prefix_tokens=1,  # CLS
        attention="attention",
        submodule_mixins={"relative_position_bias": GivenBias},
        prepare_arguments=_prepare_bias,
    )
)
