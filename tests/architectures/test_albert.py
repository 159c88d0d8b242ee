"""ALBERT applies one layer many times, with one router and one adapter."""

import pytest
import torch
import transformers as hf

import conditional_adapters as ca
from tests.helpers.tiny_models import LAYERS, TINY_MODELS

APPLICATIONS = 2 * LAYERS  # two layers in the group, which is applied LAYERS times


def test_a_record_holds_every_application_of_the_last_forward_pass() -> None:
    tiny = TINY_MODELS["albert"]
    config = ca.ConditionalAdapterConfig(reduction_factor=3, dense_layers=(0,))
    model = ca.attach(tiny.build("sdpa"), config)
    with torch.no_grad(), ca.record_routing(model) as routing:
        assert routing.layers == [None, None]
        for _ in range(2):
            model(**tiny.inputs())
            assert len(routing.layers) == APPLICATIONS
            assert all(decision is None for decision in routing.layers[::2])
            logits = [decision.router_logits for decision in routing.layers[1::2]]
            assert len({float(scores.sum()) for scores in logits}) == LAYERS
    assert routing.layer_counts()[:, 0].tolist() == [LAYERS, LAYERS]


def test_several_groups_of_layers_are_refused() -> None:
    config = hf.AlbertConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, num_hidden_groups=2
    )
    with pytest.raises(ca.UnsupportedArchitectureError, match="it has 2 groups of layers"):
        ca.attach(hf.AlbertModel(config))
