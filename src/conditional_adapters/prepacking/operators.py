"""Linear maps whose weight is laid out beforehand as the CPU's matrix product reads it.

A product of a few rows spends most of its time on bringing the weight into blocks. Conditional
layers multiply k of n rows by the same frozen weight at every call, so that is done once.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# For how many rows the layout is chosen; it serves others within the noise of a measurement.
_NUM_ROWS = 64


def can_pack(weight: Tensor) -> bool:
    """Tell whether oneDNN, the library of PyTorch's CPU build, can pack a weight here.

    Args:
        weight: Any tensor.

    Returns:
        True for an ordinary two-dimensional CPU tensor in float32, or in bfloat16 on a processor
        with instructions for it, made outside `torch.inference_mode`.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    is_plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.layout == torch.strided
    if not is_plain or weight.device.type != "cpu" or weight.dim() != 2 or not weight.numel():
        return False
    if weight.is_inference():  # nothing would tell that it has changed
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack_weight(weight: Float[Tensor, "out in"]) -> Tensor:
    """Return a copy of a weight for `packed_linear`.

    Args:
        weight: A weight for which `can_pack` is true.

    Returns:
        An opaque tensor of the same shape and dtype, about as large. It cannot be indexed, moved or
        saved.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _NUM_ROWS)
    return packed


def packed_linear(
    states: Float[Tensor, "*batch in"],
    packed: Tensor,
    bias: Float[Tensor, " out"] | None,
    residual: Float[Tensor, "*batch out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """Compute `states @ weight.T + bias`, as `torch.nn.functional.linear` does, `+ residual`.

    Args:
        states: Rows in the dtype of the weight, in any memory layout.
        packed: What `pack_weight` returned.
        bias: Added to each row; None adds nothing.
        residual: Added to the product in the same pass over memory, and not changed; None adds
            nothing.

    Returns:
        The sum, a new tensor; no gradient flows through it. It differs from `linear` by rounding.
    """
    multiply = torch.ops.mkldnn._linear_pointwise
    product: Tensor
    if residual is None:
        product = multiply(states, packed, bias, "none", [], "")
    else:
        product = multiply.binary(states, residual, packed, bias, "add")
    return product
