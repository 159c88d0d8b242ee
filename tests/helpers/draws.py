"""Random tensors for tests of operators, and how their gradients are compared."""

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)


def positions(batch: int, k: int, seq: int) -> Tensor:
    """Draw distinct ascending positions for each row."""
    return torch.rand(batch, seq).argsort(-1)[:, :k].sort(-1).values


def values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw values that few types round to 0."""
    return (4 * torch.randn(*shape)).to(dtype)


def assert_gradients_agree(ours: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare the gradients of two results, for one random cotangent."""
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        atol=1e-14,
        rtol=0,
    )
