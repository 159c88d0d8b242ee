"""Linear maps with prepacked weights, by oneDNN.

A matrix product of a few tokens spends most of its time on reordering the weight into blocks.
Conditional layers multiply k of n tokens by the same frozen weight at every call, so the weight is
reordered once, beforehand.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# The batch size that oneDNN chooses the layout for. Other sizes run equally fast with it.
_NUM_TOKENS = 64


def can_prepack(weight: Tensor) -> bool:
    """Whether oneDNN, the library of PyTorch's CPU build, can prepack a weight on this machine."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    is_plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.layout == torch.strided
    if not is_plain or weight.device.type != "cpu" or weight.dim() != 2 or not weight.numel():
        return False
    if weight.is_inference():  # it counts no versions, so changes cannot be detected
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def prepack_weight(weight: Float[Tensor, "out in"]) -> Tensor:
    """Copy a weight into an opaque tensor, which cannot be indexed, moved or saved."""
    prepacked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _NUM_TOKENS)
    return prepacked


def prepacked_linear(
    states: Float[Tensor, "*batch in"],
    prepacked: Tensor,
    bias: Float[Tensor, " out"] | None,
    residual: Float[Tensor, "*batch out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """Compute `states @ weight.T + bias + residual`.

    Args:
        states: Activations in the dtype of the weight, in any memory layout.
        prepacked: The result of `prepack_weight`.
        bias: None adds nothing.
        residual: Added by the same kernel, and not modified; None adds nothing.

    Returns:
        A new tensor, without gradient. It differs from `torch.nn.functional.linear` by rounding.
    """
    multiply = torch.ops.mkldnn._linear_pointwise
    product: Tensor
    if residual is None:
        product = multiply(states, prepacked, bias, "none", [], "")
    else:
        product = multiply.binary(states, residual, prepacked, bias, "add")
    return product
