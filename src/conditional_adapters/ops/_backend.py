"""Who computes the operators: torch's own kernels, or ours in Triton.

The Triton kernels need an NVIDIA or AMD GPU. They compute the same numbers as the operators in
torch and do in one launch what those do in ten, which matters where a launch takes longer than the
arithmetic. Nothing changes unless someone asks for them.
"""

import importlib
from types import ModuleType, TracebackType
from typing import Literal, get_args

from ..errors import RoutingError

KernelBackend = Literal["torch", "triton"]

_active: ModuleType | None = None  # of the same functions as ops; None: torch


class set_kernel_backend:  # noqa: N801 - used like torch.set_grad_enabled
    """Choose who computes the operators, for the process or for a block.

    Takes effect at once, in all threads; as a context manager it restores what was before::

        set_kernel_backend("triton")
        with set_kernel_backend("torch"):
            ...

    Args:
        name: "torch", which works everywhere, or "triton", which takes tensors on a GPU only (and
            tensors on the CPU where `TRITON_INTERPRET=1` was set before Triton was imported).

    Raises:
        RoutingError: If the name is unknown or Triton is not installed.

    Source:
        Our choice (docs/decisions/0009).
    """

    def __init__(self, name: KernelBackend) -> None:
        global _active
        if name not in get_args(KernelBackend):
            raise RoutingError(f"The kernel backend must be 'torch' or 'triton', got {name!r}.")
        self._before, _active = _active, _load_kernels() if name == "triton" else None

    def __enter__(self) -> None:
        """Do nothing: the choice was made already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the former choice."""
        global _active
        _active = self._before


def active_kernels() -> ModuleType | None:
    """Return the Triton kernels if the operators are to run as such."""
    return _active


def _load_kernels() -> ModuleType:
    try:
        return importlib.import_module("conditional_adapters.kernels")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise RoutingError(
            "The kernel backend 'triton' needs Triton, which builds of torch for GPUs bring along "
            "(`pip install triton` otherwise; Linux only). Stay with 'torch' on other machines."
        ) from error
