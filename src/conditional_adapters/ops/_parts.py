"""In how many parts a CPU goes through a long batch."""

import torch

# Elements of a part, about: 4 MiB in float32. What is computed of it stays in cache until it is
# used, and in memory that an allocator keeps: fresh pages for a long batch take longer than that.
_ELEMENTS = 2**20


def num_parts(
    num_elements: int, device: torch.device, *, needs_gradient: bool | None = None
) -> int:
    """Return into how many parts of like size to divide what is computed of tokens.

    Args:
        num_elements: Of all parts together.
        device: Where they are.
        needs_gradient: Whether a gradient is wanted of them; None: if gradients are recorded.

    Returns:
        1 on other devices, where a gradient is wanted, and while a graph is recorded.
    """
    if needs_gradient is None:
        needs_gradient = torch.is_grad_enabled()
    if needs_gradient or is_recorded() or device.type != "cpu":
        return 1
    return num_elements // _ELEMENTS + 1


def is_recorded() -> bool:
    """Tell whether a graph is being recorded: compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
