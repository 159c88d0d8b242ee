"""Translations of operators to ONNX that replace those of torch.

torch 2.13 with onnxscript 0.7 has no stable sort, divides integers in float32 and writes Python
numbers as float32, where 39 / 1.3 is more than 30. These operators decide which tokens are chosen,
so they must be exact.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import ir
from onnxscript import opset18 as op

_DOUBLE = ir.DataType.DOUBLE


def _divide(dividend: Any, divisor: Any) -> Any:  # noqa: ANN401
    """Divide sizes in float64, as Python does."""
    return op.Div(_as_double(dividend), _as_double(divisor))


def _as_double(number: Any) -> Any:  # noqa: ANN401
    if isinstance(number, int | float):
        return op.Constant(value=ir.tensor(float(number), dtype=_DOUBLE))
    return op.Cast(number, to=_DOUBLE)


def _number(
    number: Any,  # noqa: ANN401
    *,
    dtype: int = ir.DataType.FLOAT,
    layout: str = "",
    device: str = "",
    pin_memory: bool = False,
) -> Any:  # noqa: ANN401
    """Convert a number to a tensor of its dtype, not by way of float32."""
    kind = ir.DataType.FLOAT if dtype == -1 else ir.DataType(dtype)
    if isinstance(number, int | float):
        return op.Constant(value=ir.tensor(number, dtype=kind))
    return op.Cast(number, to=kind)


def _sort_stable(
    values: Any,  # noqa: ANN401
    *,
    stable: bool | None = None,
    dim: int = -1,
    descending: bool = False,
) -> Any:  # noqa: ANN401
    """Sort by TopK, for which ONNX defines that the lower index comes first on ties."""
    size = op.Shape(values, start=dim, end=None if dim == -1 else dim + 1)
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.truediv: _divide,
    torch.ops.aten.scalar_tensor.default: _number,
    torch.ops.aten.sort.stable: _sort_stable,
}
