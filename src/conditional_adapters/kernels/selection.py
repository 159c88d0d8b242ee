"""The choice of tokens, one program per row: threshold, compaction and weights in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import on_device_of, row_launch
from ._ranking import largest, load_row, relax


def select(scores: Tensor, top_k: int, budgets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Choose the largest scores of each row.

    Args:
        scores: `[batch, seq]`, any floating dtype of at most 32 bits.
        top_k: Slots per row, between 1 and `seq`.
        budgets: Slots that each row uses, `[batch]`; None: all.

    Returns:
        Positions, ascending, and which of these slots are within the row's budget.
    """
    scores = scores.float().contiguous()
    if budgets is None:
        budgets = torch.full((scores.shape[0],), top_k, device=scores.device)
    indices, is_selected = _select(scores, top_k, budgets.int())
    return indices, is_selected


def select_and_weigh(scores: Tensor, top_k: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Choose the largest scores of each row and weigh them; `top_k` below `seq`. No gradient."""
    indices, weights = _select_and_weigh(scores.float().contiguous(), top_k, epsilon)
    return indices, weights


@triton.jit
def _select_kernel(
    logits, budgets, indices, is_selected, seq, top_k, BLOCK: tl.constexpr
):  # fmt: skip
    columns, exists, scores = load_row(logits, seq, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    chosen, _ = largest(scores, exists, top_k)
    within, _ = largest(scores, exists, tl.load(budgets + row))
    slots = row * top_k + tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(indices + slots, columns.to(tl.int64), mask=chosen)
    tl.store(is_selected + slots, within, mask=chosen)


@triton.jit
def _select_and_weigh_kernel(
    logits, indices, weights, seq, top_k, epsilon, BLOCK: tl.constexpr
):  # fmt: skip
    columns, exists, scores = load_row(logits, seq, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    chosen, smallest = largest(scores, exists, top_k)
    soft = relax(scores, exists, chosen, smallest, top_k, epsilon)
    slots = row * top_k + tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(indices + slots, columns.to(tl.int64), mask=chosen)
    tl.store(weights + slots, soft, mask=chosen)


@torch.library.custom_op("conditional_adapters::select", mutates_args=())
def _select(scores: Tensor, top_k: int, budgets: Tensor) -> tuple[Tensor, Tensor]:
    with on_device_of(scores):
        batch, seq = scores.shape
        indices = scores.new_empty(batch, top_k, dtype=torch.int64)
        is_selected = torch.empty_like(indices, dtype=torch.bool)
        if batch:
            launch = row_launch(seq)
            _select_kernel[(batch,)](scores, budgets, indices, is_selected, seq, top_k, **launch)
    return indices, is_selected


@_select.register_fake
def _(scores: Tensor, top_k: int, budgets: Tensor) -> tuple[Tensor, Tensor]:
    indices = scores.new_empty(scores.shape[0], top_k, dtype=torch.int64)
    return indices, torch.empty_like(indices, dtype=torch.bool)


@torch.library.custom_op("conditional_adapters::select_and_weigh", mutates_args=())
def _select_and_weigh(scores: Tensor, top_k: int, epsilon: float) -> tuple[Tensor, Tensor]:
    with on_device_of(scores):
        batch, seq = scores.shape
        indices = scores.new_empty(batch, top_k, dtype=torch.int64)
        weights = scores.new_empty(batch, top_k)
        if batch:
            launch = row_launch(seq)
            _select_and_weigh_kernel[(batch,)](
                scores, indices, weights, seq, top_k, epsilon, **launch
            )
    return indices, weights


@_select_and_weigh.register_fake
def _(scores: Tensor, top_k: int, epsilon: float) -> tuple[Tensor, Tensor]:
    indices = scores.new_empty(scores.shape[0], top_k, dtype=torch.int64)
    return indices, scores.new_empty(scores.shape[0], top_k)
