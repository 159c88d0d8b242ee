"""A conditional layer computed without gathering: the dense layer with unselected keys masked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import conditional_adapters as ca
from conditional_adapters.modules import ConditionalLayer

from .tiny_models import TinyModel


def oracle(
    tiny: TinyModel,
    layer: ConditionalLayer,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    decision: ca.RoutingDecision,
    valid: Tensor,
) -> Tensor:
    """Equation 7 without gathering: the dense layer on all tokens, with keys masked."""
    states = args[0]
    assert isinstance(states, Tensor)
    batch, seq, _ = states.shape
    is_selected = torch.zeros(batch, seq, dtype=torch.bool)
    weights = torch.zeros(batch, seq)
    for row in range(batch):
        for slot in range(decision.selected_indices.shape[1]):
            if decision.is_selected[row, slot]:
                position = decision.selected_indices[row, slot]
                is_selected[row, position] = True
                weights[row, position] = decision.selected_weights[row, slot]
    parts = layer.coda_adapters["default"]
    is_key = valid if parts.attention_mode == "k_to_all" else is_selected
    arguments = dict(zip(layer.coda_argument_names, args[1:], strict=False)) | kwargs
    arguments.pop("coda_context", None)
    mask = arguments.get("attention_mask")
    if mask is None and tiny.is_causal:
        mask = torch.ones(seq, seq, dtype=torch.bool).tril().expand(batch, 1, -1, -1)
    if mask is None and tiny.has_flat_masks:
        mask = torch.ones(batch, seq, dtype=torch.bool)
    arguments["attention_mask"] = hide_keys(mask, is_key, states.dtype)
    bias = arguments.get("position_bias")
    if isinstance(bias, Tensor) and bias.shape[-2:] != (seq, seq):
        arguments["position_bias"] = bias_of_pairs(bias, batch)
    with unselected_rows_unchanged(layer, states, is_selected):
        output = type(layer).coda_original_class.forward(layer, states, **arguments)
    heavy = output[0] if isinstance(output, tuple) else output
    normalised = states if layer.coda_norm is None else layer.coda_norm(states)
    with_light = parts.adapter(normalised, states)
    return with_light + weights.unsqueeze(-1) * (heavy - states)


def hide_keys(mask: Tensor | None, is_key: Tensor, dtype: torch.dtype) -> Tensor:
    """Hide keys in a mask of any form that transformers uses, beyond those hidden already."""
    if mask is not None and mask.dim() == 2:
        return mask & is_key
    pairs = is_key[:, None, None, :]
    if mask is None:
        mask = torch.zeros(len(is_key), 1, is_key.shape[1], is_key.shape[1], dtype=dtype)
    if mask.dtype == torch.bool:
        return mask & pairs
    if not mask.is_floating_point() or (mask == 1).any():  # ones and zeros; additive masks hold 0
        return mask * pairs
    return mask.masked_fill(~pairs, torch.finfo(mask.dtype).min)


def bias_of_pairs(distances: Tensor, batch: int) -> Tensor:
    """Look the distance of each pair of tokens up; of flattened heads for each row."""
    seq = (distances.shape[-1] + 1) // 2
    places = torch.tensor([[seq - 1 + key - query for key in range(seq)] for query in range(seq)])
    pairs = distances[..., places]
    return torch.cat([pairs] * batch) if distances.dim() == 2 else pairs


@contextmanager
def unselected_rows_unchanged(
    layer: ConditionalLayer, states: Tensor, is_selected: Tensor
) -> Iterator[None]:
    """Show a Conformer's keys and convolution the layer's input where tokens are not processed."""
    if not hasattr(layer, "conv_module"):
        yield
        return
    is_processed = is_selected.unsqueeze(-1)
    handles = (
        layer.ffn1.register_forward_hook(lambda module, args, output: output * is_processed),
        layer.conv_module.register_forward_pre_hook(
            lambda module, args: (torch.where(is_processed, args[0], states), *args[1:])
        ),
    )
    yield
    for handle in handles:
        handle.remove()
