"""Chunks: how a CPU goes through a long batch so that intermediate results stay in cache."""

import torch

# Elements of a chunk, about 4 MiB in float32: intermediate results stay in cache, in memory that
# the allocator keeps. Fresh pages for a long batch take longer than that.
CHUNK_ELEMENTS = 2**20


def num_chunks(
    num_elements: int, device: torch.device, *, needs_gradient: bool | None = None
) -> int:
    """Return the number of chunks to split tokens into.

    Args:
        num_elements: Elements of the whole batch.
        device: Device of the tensors.
        needs_gradient: Whether a gradient is needed; None: whether autograd is enabled.

    Returns:
        1 on other devices than CPUs, where a gradient is needed, and while tracing.
    """
    if needs_gradient is None:
        needs_gradient = torch.is_grad_enabled()
    if needs_gradient or is_tracing() or device.type != "cpu":
        return 1
    return num_elements // CHUNK_ELEMENTS + 1


def is_tracing() -> bool:
    """Whether a graph is being traced: compiled, exported or scripted."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
