"""Call the light branch of modules, and find out which of its forms ran."""

import sys

import pytest
from torch import Tensor, nn

from conditional_adapters.modules.adapter import ParallelAdapter, describe_norm
from conditional_adapters.ops import light_branch

OPERATOR = sys.modules[light_branch.__module__]


def call(
    adapter: ParallelAdapter,
    norm: nn.Module | None,
    states: Tensor,
    residual: Tensor,
    router_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    described = None if norm is None else describe_norm(norm)
    return light_branch(states, residual, adapter, norm=described, router_weight=router_weight)


class Forms:
    """Records how often the reference and the chunked form are called from outside each other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.called: list[str] = []
        self.num_chunks: list[int] = []
        reference, chunked = OPERATOR._reference, OPERATOR._chunked

        def record_reference(*arguments):
            self.called.append("reference")
            return reference(*arguments)

        def record_chunked(number, *arguments):
            self.num_chunks.append(number)
            before = len(self.called)
            result = chunked(number, *arguments)
            self.called[before:] = ["chunked"]
            return result

        monkeypatch.setattr(OPERATOR, "_reference", record_reference)
        monkeypatch.setattr(OPERATOR, "_chunked", record_chunked)

    def of(self, *arguments, **settings) -> str:
        """Return the form that a call takes; the kernel leaves no trace."""
        self.called.clear()
        call(*arguments, **settings)
        return self.called[0] if self.called else "kernel"
