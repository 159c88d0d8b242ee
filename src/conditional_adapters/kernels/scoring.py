"""The router's scores, one program per token: one pass over the states, summed in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import hidden_launch, on_device_of


def score(states: Tensor, weight: Tensor) -> Tensor:
    """Multiply each token with the vector of its router. No gradient.

    Args:
        states: `[batch, seq, hidden]`, any floating dtype of at most 32 bits.
        weight: `[hidden]`, or `[batch, 1, hidden]` where rows have routers of their own.

    Returns:
        `[batch, seq]`, float32.
    """
    scores: Tensor = _score(states.contiguous(), weight.float().contiguous())
    return scores


@triton.jit
def _score_kernel(states, weights, scores, hidden, tokens_per_weight, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    own = token // tokens_per_weight * hidden
    products = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        exists = columns < hidden
        state = tl.load(states + token * hidden + columns, mask=exists, other=0.0)
        weight = tl.load(weights + own + columns, mask=exists, other=0.0)
        products += state.to(tl.float32) * weight
    tl.store(scores + token, tl.sum(products))


@torch.library.custom_op("conditional_adapters::score", mutates_args=())
def _score(states: Tensor, weight: Tensor) -> Tensor:
    with on_device_of(states):
        batch, seq, hidden = states.shape
        scores = states.new_empty(batch, seq, dtype=torch.float32)
        if scores.numel():
            tokens_per_weight = batch * seq if weight.dim() == 1 else seq
            _score_kernel[(batch * seq,)](
                states, weight, scores, hidden, tokens_per_weight, **hidden_launch(hidden)
            )
    return scores


@_score.register_fake
def _(states: Tensor, weight: Tensor) -> Tensor:
    return states.new_empty(states.shape[:2], dtype=torch.float32)
