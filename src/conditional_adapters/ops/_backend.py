"""The kernel backend of the operators: torch's own kernels, or fused ones in Triton.

The Triton kernels need an NVIDIA or AMD GPU. They compute the same numbers as the operators in
torch with one launch instead of ten, which matters where a launch takes longer than the arithmetic.
The backend is a setting of the process, "torch" until `set_kernel_backend` changes it.
"""

import importlib
from types import ModuleType, TracebackType
from typing import Literal, get_args

from ..errors import RoutingError

KernelBackend = Literal["torch", "triton"]

kernels: ModuleType | None = None  # the Triton kernels, with the functions of ops; None: torch


class set_kernel_backend:  # noqa: N801 - used like torch.set_grad_enabled
    """Choose the kernel backend, for the process or for a block.

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
        global kernels
        if name not in get_args(KernelBackend):
            raise RoutingError(f"The kernel backend must be 'torch' or 'triton', got {name!r}.")
        self._before, kernels = kernels, _load_kernels() if name == "triton" else None

    def __enter__(self) -> None:
        """Do nothing: the choice was made already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the former choice."""
        global kernels
        kernels = self._before


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
