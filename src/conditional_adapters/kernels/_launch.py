"""What launches have in common."""

import os

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


def check_device(values: Tensor) -> None:
    """Raise RoutingError if Triton cannot read this tensor."""
    if values.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        return
    raise RoutingError(
        f"The Triton kernels need tensors on a GPU, got one on {values.device}. Move the model "
        "there, or use set_kernel_backend('torch')."
    )
