"""Launch parameters of the kernels."""

import os
from typing import Any, TypeAlias

import torch
import triton
from torch import Tensor

from ..errors import RoutingError

Context: TypeAlias = Any  # torch does not declare the attributes of an autograd context

_MAX_SEQ = 65536  # the scores of a longer sequence would not fit into the registers of one program


def sequence_launch(seq: int) -> dict[str, int]:
    """Block size and number of warps for a program that holds all scores of an example."""
    if seq > _MAX_SEQ:
        raise RoutingError(
            f"The sequence has {seq} tokens, and the Triton kernels support up to {_MAX_SEQ}. "
            "Shorten it, or call set_kernel_backend('torch')."
        )
    block = triton.next_power_of_2(seq)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


def hidden_launch(hidden: int) -> dict[str, int]:
    """Block size and number of warps for a program that loops over the hidden axis."""
    block = min(triton.next_power_of_2(hidden), 1024)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 4)}


def on_device_of(values: Tensor) -> torch.cuda.device_of:
    """Context manager: make the GPU of a tensor the current one, where Triton launches kernels."""
    if not values.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise RoutingError(
            f"The Triton kernels need tensors on a GPU, got one on {values.device}. Move the model "
            "to a GPU, or call set_kernel_backend('torch')."
        )
    return torch.cuda.device_of(values)
