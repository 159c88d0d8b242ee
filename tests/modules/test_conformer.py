import math

import pytest
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerRelPositionalEmbedding,
    Wav2Vec2ConformerSelfAttention,
)

import conditional_adapters as ca
from conditional_adapters.modules import ConformerAttention, RoutedTokens
from conditional_adapters.modules._subclass import add_mixin
from tests.helpers.tiny_models import TINY_MODELS

BATCH, SEQ, HIDDEN, HEADS = 2, 9, 16, 2
WIDTH = HIDDEN // HEADS
LEFT, RIGHT = 3, 2
INDICES = torch.tensor([[0, 3, 4, 8], [1, 2, 6, 7]])
SETTINGS = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "max_source_positions": 20}

all_keys = pytest.mark.parametrize("all_keys", [False, True])


def positions_of_keys(row: int, all_keys: bool) -> list[int]:
    return list(range(SEQ)) if all_keys else INDICES[row].tolist()


def routed_tokens(all_keys: bool, table: Tensor | None = None) -> RoutedTokens:
    states = torch.randn(BATCH, SEQ, HIDDEN) if all_keys else None
    return RoutedTokens(INDICES, SEQ, states, table)


def routed_attention(attention: nn.Module) -> ConformerAttention:
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return add_mixin(attention, ConformerAttention)


def sinusoids(distance: int) -> Tensor:
    frequencies = [10000 ** (-2 * i / HIDDEN) for i in range(HIDDEN // 2)]
    pairs = [(math.sin(distance * f), math.cos(distance * f)) for f in frequencies]
    return torch.tensor(pairs).flatten()


@all_keys
@torch.no_grad()
def test_relative_scores_are_those_of_the_true_distance_of_every_pair(all_keys: bool) -> None:
    config = Wav2Vec2ConformerConfig(position_embeddings_type="relative", **SETTINGS)
    attention = routed_attention(Wav2Vec2ConformerSelfAttention(config))
    table = Wav2Vec2ConformerRelPositionalEmbedding(config)(torch.empty(1, SEQ, HIDDEN))
    query = torch.randn(BATCH, HEADS, INDICES.shape[1], WIDTH)
    with_content_bias = query + attention.pos_bias_u[:, None]
    bias = attention.coda_position_bias(with_content_bias, routed_tokens(all_keys, table))
    for row in range(BATCH):
        for slot, position in enumerate(INDICES[row].tolist()):
            for column, key in enumerate(positions_of_keys(row, all_keys)):
                vector = attention.linear_pos(sinusoids(position - key)).view(HEADS, WIDTH)
                scores = ((query[row, :, slot] + attention.pos_bias_v) * vector).sum(-1)
                expected = scores / math.sqrt(WIDTH)
                torch.testing.assert_close(
                    bias[row, :, slot, column], expected, atol=1e-4, rtol=1e-4
                )


@all_keys
@torch.no_grad()
def test_relative_key_scores_are_those_of_the_true_distance_of_every_pair(all_keys: bool) -> None:
    config = Wav2Vec2BertConfig(
        position_embeddings_type="relative_key",
        left_max_position_embeddings=LEFT,
        right_max_position_embeddings=RIGHT,
        **SETTINGS,
    )
    attention = routed_attention(Wav2Vec2BertSelfAttention(config))
    query = torch.randn(BATCH, HEADS, INDICES.shape[1], WIDTH)
    bias = attention.coda_position_bias(query, routed_tokens(all_keys))
    for row in range(BATCH):
        for slot, position in enumerate(INDICES[row].tolist()):
            for column, key in enumerate(positions_of_keys(row, all_keys)):
                distance = min(max(key - position, -LEFT), RIGHT)
                vector = attention.distance_embedding.weight[distance + LEFT]
                expected = (query[row, :, slot] * vector).sum(-1) / math.sqrt(WIDTH)
                torch.testing.assert_close(
                    bias[row, :, slot, column], expected, atol=1e-4, rtol=1e-4
                )


@pytest.mark.parametrize("positions", ["rotary", None])
def test_other_positions_add_no_scores(positions: str | None) -> None:
    config = Wav2Vec2BertConfig(position_embeddings_type=positions, **SETTINGS)
    attention = routed_attention(Wav2Vec2BertSelfAttention(config))
    query = torch.randn(BATCH, HEADS, INDICES.shape[1], WIDTH)
    assert attention.coda_position_bias(query, routed_tokens(all_keys=False)) is None


def test_attention_functions_that_take_no_scores_are_refused() -> None:
    model = TINY_MODELS["wav2vec2-bert"].build("eager")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ca.ConfigError, match=r"'k_to_k' of 'wav2vec2-bert'.*'flash_attention_2'"):
        ca.attach(model)
