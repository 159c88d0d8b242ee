"""Lower bound of the latency of a model: its matrix products and attention alone."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    torch.ops.mkldnn._linear_pointwise.default,  # prepacked weights
    torch.ops.mkldnn._linear_pointwise.binary,  # and a residual
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}


class OperatorObserver(TorchDispatchMode):
    """Calls `observe` with each operator and its arguments before it runs."""

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        """Receive an operator call."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        self.observe(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Recorder(OperatorObserver):
    """Records products; activations of one shape are replaced by one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]] = []
        self._weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self._activations: dict[tuple[object, ...], Tensor] = {}

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        """Record a product."""
        if func in PRODUCTS:
            self.calls.append((func, *tree_map(self._stand_in, (args, kwargs))))

    def _stand_in(self, value: object) -> object:
        if not isinstance(value, Tensor) or value.layout != torch.strided:  # prepacked weight
            return value
        if value.untyped_storage().data_ptr() in self._weights:
            return value
        key = (tuple(value.shape), value.stride(), value.dtype)
        if key not in self._activations:
            empty = torch.empty_strided(*key[:2], dtype=value.dtype, device=value.device)
            self._activations[key] = empty.copy_(value)
        return self._activations[key]


def products_alone(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], None]:
    """Record the products of a forward pass, to repeat them alone.

    The weights are those of the model, so they are read from memory as in the model. Activations of
    one shape share one tensor.

    Args:
        model: Model in evaluation mode.
        inputs: Its inputs.

    Returns:
        Function that runs all matrix products, convolutions and attention in sequence.
    """
    with torch.no_grad(), _Recorder(model) as recorder:
        model(**inputs)  # inference mode would not decompose linear maps

    def replay() -> None:
        with torch.no_grad():
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)

    return replay
