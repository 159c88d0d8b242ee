"""Gather the arguments of a layer for the tokens that it processes.

Queries are always the selected tokens. Keys are the same tokens (k-to-k), or all valid tokens of
the sequence (k-to-all).
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..ops import (
    expand_relative_bias,
    gather_pairs,
    gather_relative_bias,
    gather_tokens,
    prefers_distances,
    relative_bias,
)


class TokenAxis(Enum):
    """The position of the token axis in an argument of a layer."""

    TOKEN = "token"  # [batch or 1, seq, ...]: rotary tables, position ids
    HEAD_TOKEN = "head_token"  # [batch or 1, heads or 1, seq, ...]: the same with a head axis
    PAIR = "pair"  # [batch or 1, heads or 1, seq, seq]: position biases
    # As PAIR, but equal for all pairs of one distance, in all examples: relative position biases;
    # or [1, heads, 2 seq - 1], by distance.
    RELATIVE_BIAS = "relative_bias"
    # [batch * heads, seq, seq] or [heads, 2 seq - 1]: the same, flattened
    FLAT_RELATIVE_BIAS = "flat_relative_bias"
    PAIR_MASK = "pair_mask"  # as PAIR, an attention mask that depends on the pair
    PADDING_MASK = "padding_mask"  # as PAIR, an attention mask that hides nothing but padding


MASKS = (TokenAxis.PAIR_MASK, TokenAxis.PADDING_MASK)


class TokenSelection(NamedTuple):
    """The tokens that a frozen layer processes, and the keys they attend to."""

    indices: Int[Tensor, "batch k"]
    is_selected: Bool[Tensor, "batch k"] | None  # None: every slot is in use
    is_attended: Bool[Tensor, "batch keys"] | None  # None: every key
    all_keys: bool  # keys are all tokens, not the selected ones
    is_padding_only: bool  # attention masks hide nothing but padding


def gather_arguments(
    arguments: Mapping[str, Any],
    axes: Mapping[str, TokenAxis],
    selection: TokenSelection,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Gather the selected tokens of every argument with a token axis.

    Args:
        arguments: The layer's arguments for all tokens, by name.
        axes: The token axes, by the name of the argument.
        selection: The selected tokens.
        dtype: Type of the hidden states, for new masks.

    Returns:
        All arguments; those without a token axis unchanged.
    """
    gathered = dict(arguments)
    for name, axis in axes.items():
        value = arguments.get(name)
        if axis in MASKS:
            drops = axis is TokenAxis.PADDING_MASK and selection.is_padding_only
            gathered[name] = _gather_mask(value, selection, drops, dtype)
        elif isinstance(value, Tensor | tuple):
            gathered[name] = _gather(value, axis, selection)
    return gathered


def expand_arguments(
    arguments: Mapping[str, Any], axes: Mapping[str, TokenAxis], batch: int
) -> dict[str, Any]:
    """Expand biases by distance to all pairs of tokens, for a layer that processes all tokens.

    Args:
        arguments: The layer's arguments, by name.
        axes: The token axes, by the name of the argument.
        batch: Number of examples.

    Returns:
        All arguments.
    """
    expanded = dict(arguments)
    for name, axis in axes.items():
        value = arguments.get(name)
        if axis is TokenAxis.RELATIVE_BIAS and value is not None and value.dim() == 3:
            expanded[name] = expand_relative_bias(value)
        elif axis is TokenAxis.FLAT_RELATIVE_BIAS and value is not None and value.dim() == 2:
            expanded[name] = expand_relative_bias(value).repeat(batch, 1, 1)
    return expanded


def _gather(value: Any, axis: TokenAxis, selection: TokenSelection) -> Any:  # noqa: ANN401
    """Gather a tensor, or each tensor of a tuple such as (cos, sin)."""
    indices, all_keys = selection.indices, selection.all_keys
    if isinstance(value, tuple):
        return tuple(_gather(tensor, axis, selection) for tensor in value)
    if axis is TokenAxis.TOKEN:
        return gather_tokens(value, indices)
    if axis is TokenAxis.HEAD_TOKEN:
        return gather_tokens(value.transpose(1, 2), indices).transpose(1, 2)
    if axis is TokenAxis.PAIR:
        return gather_pairs(value, indices, all_keys=all_keys)
    if axis is TokenAxis.RELATIVE_BIAS:
        return _gather_relative_bias(value, indices, all_keys)
    bias = value.unflatten(0, (1 if value.dim() == 2 else indices.shape[0], -1))
    return _gather_relative_bias(bias, indices, all_keys).flatten(0, 1)


def _gather_relative_bias(bias: Tensor, indices: Tensor, all_keys: bool) -> Tensor:
    """Gather by distance, or by pair where that is faster."""
    if bias.dim() == 4:
        if not prefers_distances():
            return gather_pairs(bias, indices, all_keys=all_keys)
        bias = relative_bias(bias[:1])
    return gather_relative_bias(bias, indices, all_keys=all_keys)


def _gather_mask(
    mask: Tensor | None, selection: TokenSelection, hides_padding_only: bool, dtype: torch.dtype
) -> Tensor | None:
    """Return the attention mask of the selected queries, or None where nothing is hidden.

    The form of the mask stays that of the attention implementation: boolean (True = attend),
    additive, or `[batch, seq]`. Where there was none and keys must be hidden, it is additive, which
    eager and sdpa attention both accept.
    """
    indices, is_attended = selection.indices, selection.is_attended
    if mask is not None and mask.dim() == 2:
        flat = mask if selection.all_keys else gather_tokens(mask, indices)
        return flat if is_attended is None else flat * is_attended
    if mask is None or hides_padding_only:
        if is_attended is None:
            return None
        pairs = is_attended[:, None, None, :]
        if mask is not None and mask.dtype == torch.bool:
            return pairs
        dtype = dtype if mask is None else mask.dtype
        return torch.zeros_like(pairs, dtype=dtype).masked_fill(~pairs, torch.finfo(dtype).min)
    mask = gather_pairs(mask, indices, all_keys=selection.all_keys)
    if is_attended is None:
        return mask
    attended = is_attended[:, None, None, :]
    if mask.dtype != torch.bool:
        return mask.masked_fill(~attended, torch.finfo(mask.dtype).min)
    mask = mask & attended
    if selection.is_selected is not None:
        # The query of an unused slot might see no key, and softmax would return NaN.
        mask = mask | ~selection.is_selected[:, None, :, None]
    return mask
