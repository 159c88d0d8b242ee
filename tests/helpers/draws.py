"""Random tensors for tests of operators."""

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)


def positions(batch: int, k: int, seq: int) -> Tensor:
    """Draw distinct ascending positions for each row."""
    return torch.rand(batch, seq).argsort(-1)[:, :k].sort(-1).values


def values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw values that few types round to 0."""
    return (4 * torch.randn(*shape)).to(dtype)
