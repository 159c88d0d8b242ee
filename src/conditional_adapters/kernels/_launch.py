"""What launches have in common."""

import os

import torch
import triton
from torch import Tensor

from ..errors import RoutingError

# Larger rows would not fit into the registers of one program.
_MAX_ROW = 65536


def row_launch(seq: int) -> dict[str, int]:
    """Return how a kernel that holds a whole row in registers is launched.

    Args:
        seq: Length of the row.

    Returns:
        Block size and number of warps, by name.

    Raises:
        RoutingError: If the row is too long.
    """
    if seq > _MAX_ROW:
        raise RoutingError(
            f"The Triton kernels take rows of up to {_MAX_ROW} tokens, got {seq}. Use "
            "set_kernel_backend('torch') for longer ones."
        )
    block = triton.next_power_of_2(seq)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


def hidden_launch(hidden: int) -> dict[str, int]:
    """Return how a kernel that walks along the hidden axis is launched."""
    block = min(triton.next_power_of_2(hidden), 1024)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 4)}


def on_device_of(values: Tensor) -> torch.cuda.device_of:
    """Make the GPU of a tensor the current one, on which Triton launches, for a `with` block.

    Args:
        values: What a kernel reads.

    Returns:
        A context manager.

    Raises:
        RoutingError: If Triton cannot read the tensor.
    """
    if not values.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise RoutingError(
            f"The Triton kernels need tensors on a GPU, got one on {values.device}. Move the model "
            "there, or use set_kernel_backend('torch')."
        )
    return torch.cuda.device_of(values)
