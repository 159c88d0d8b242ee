"""A Conformer block on k of n tokens (docs/decisions/0004).

The block is a sandwich: half a feed-forward step, attention, a convolution over neighbours, half a
feed-forward step again, a norm. All but the convolution run on the selected tokens. The convolution
needs true neighbours, so it runs on all tokens: the output of attention for the selected ones, the
input of the layer for the others. Only its outputs at selected tokens are used.
"""

from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..ops import gather_tokens, scatter_add_tokens
from .arguments import TokenSelection
from .attention import ROUTED_ARGUMENT, RoutedAttention, RoutedTokens
from .conditional_layer import ConditionalLayer


class ConditionalConformerLayer(ConditionalLayer):
    """Mixin that calls the parts of a Conformer block one after the other."""

    def _coda_process(
        self,
        hidden_states: Tensor,
        selected: Tensor,
        gathered: dict[str, Any],
        selection: TokenSelection,
    ) -> Tensor:
        block, indices = cast("Any", self), selection.indices
        positions = gathered.pop("relative_position_embeddings", None)
        convolution = {}
        if "conv_attention_mask" in gathered:
            convolution["attention_mask"] = gathered.pop("conv_attention_mask")

        states = selected + 0.5 * block.ffn1(block.ffn1_layer_norm(selected))
        keys = None
        if selection.all_keys:
            keys = block.self_attn_layer_norm(_put(states, hidden_states, selected, selection))
        routed: RoutedTokens = gathered[ROUTED_ARGUMENT]
        gathered[ROUTED_ARGUMENT] = routed._replace(states=keys, position_embeddings=positions)
        attended, _ = block.self_attn(
            block.self_attn_layer_norm(states),
            relative_position_embeddings=_gather_positions(positions, indices),
            **gathered,
        )
        states = states + block.self_attn_dropout(attended)
        stream = _put(states, hidden_states, selected, selection)
        states = states + gather_tokens(block.conv_module(stream, **convolution), indices)
        states = states + 0.5 * block.ffn2(block.ffn2_layer_norm(states))
        output: Tensor = block.final_layer_norm(states)
        return output


class ConformerAttention(RoutedAttention):
    """Mixin for an attention module with one of three kinds of relative positions, or none."""

    coda_for_any_keys: ClassVar[bool] = True

    def coda_keys_and_values(
        self, routed: RoutedTokens, head_dim: int
    ) -> tuple[Float[Tensor, "batch heads seq dim"], Float[Tensor, "batch heads seq dim"]]:
        """Project the states of all tokens; here rotary tables rotate states, not keys."""
        attention, states = cast("Any", self), routed.states
        rotated = states
        if attention.position_embeddings_type == "rotary":
            rotated = attention._apply_rotary_embedding(states, routed.position_embeddings)
        key, value = attention.linear_k(rotated), attention.linear_v(states)
        return (
            key.unflatten(-1, (-1, head_dim)).transpose(1, 2),
            value.unflatten(-1, (-1, head_dim)).transpose(1, 2),
        )

    def coda_position_bias(
        self, query: Float[Tensor, "batch heads k dim"], routed: RoutedTokens
    ) -> Tensor | None:
        """Return the scores of each query with the vector of the true distance to each key."""
        attention, indices = cast("Any", self), routed.indices
        keys = indices
        if routed.states is not None:
            keys = torch.arange(routed.seq, device=indices.device)[None]
        distances = keys[:, None, :] - indices[:, :, None]
        if attention.position_embeddings_type == "relative":
            vectors = attention.linear_pos(routed.position_embeddings[0])
            vectors = vectors.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            # The module has added the bias of content scores to its queries already.
            query = query + (attention.pos_bias_v - attention.pos_bias_u)[:, None]
            indices = distances + routed.seq - 1
        elif attention.position_embeddings_type == "relative_key":
            left, right = (
                attention.left_max_position_embeddings,
                attention.right_max_position_embeddings,
            )
            vectors = attention.distance_embedding(
                torch.arange(left + right + 1, device=indices.device)
            ).to(query.dtype)
            indices = distances.clamp(-left, right) + left
        else:
            return None
        scores: Tensor = (query @ vectors.mT) * attention.scaling
        return scores.gather(-1, indices.unsqueeze(1).expand(-1, query.shape[1], -1, -1))


def _put(
    states: Tensor, hidden_states: Tensor, selected: Tensor, selection: TokenSelection
) -> Tensor:
    """Return the states of all tokens, with the selected ones replaced."""
    update = states - selected
    if selection.is_selected is not None:
        update = update.masked_fill(~selection.is_selected.unsqueeze(-1), 0.0)
    return scatter_add_tokens(hidden_states, selection.indices, update.to(hidden_states.dtype))


def _gather_positions(
    positions: Tensor | None, indices: Int[Tensor, "batch k"]
) -> Float[Tensor, "2 k batch 1 dim"] | Float[Tensor, "1 1 hidden"] | None:
    """Return the position argument of the attention module for the selected tokens.

    Rotary tables (`[2, seq, 1, 1, dim]`) can be gathered. Of a table of distances the module gets
    one entry: `coda_position_bias` replaces the scores that it computes from it.
    """
    if positions is None:
        return None
    return positions[:, indices.t(), 0] if positions.dim() == 5 else positions[:, :1]
