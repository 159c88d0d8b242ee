import pytest
import torch
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from conditional_adapters.analysis.break_even import SizeTiming, break_even, time_sizes
from conditional_adapters.analysis.timing import Timing


def timings(speed_ups: dict[int, float]) -> list[SizeTiming]:
    return [
        SizeTiming(num_tokens=n, dense=Timing((x,) * 3), routed={4: Timing((1.0,) * 3)})
        for n, x in speed_ups.items()
    ]


@pytest.mark.parametrize(
    "speed_ups, expected",
    [
        ({16: 0.8, 32: 1.1, 64: 2.0}, 32),
        ({64: 2.0, 16: 0.8, 32: 1.0}, 32),  # in any order; equal is no loss
        ({16: 1.1, 32: 0.9, 64: 2.0}, 64),  # a smaller one that gained by chance
        ({16: 1.1, 32: 1.2}, 16),
        ({16: 1.1, 32: 0.9}, None),
    ],
)
def test_routing_pays_from_where_no_larger_size_loses(speed_ups, expected) -> None:
    assert break_even(timings(speed_ups), 4) == expected


def test_sizes_are_timed_routed_and_dense_and_the_model_is_left_as_it_was() -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    model = BertModel(BertConfig(**size, num_attention_heads=2, vocab_size=30))
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=4))
    factors = []
    layer = model.encoder.layer[0]
    layer.register_forward_pre_hook(
        lambda *_: factors.append(layer.coda_part("default").reduction_factor)
    )
    batches = {n: {"input_ids": torch.zeros(2, n // 2, dtype=torch.long)} for n in (16, 8)}
    found = time_sizes(model, batches, factors=[2, 4], rounds=3)
    assert [timing.num_tokens for timing in found] == [8, 16]
    assert all(timing.speed_up(2) > 0 and timing.speed_up(4) > 0 for timing in found)
    assert {factors.count(factor) for factor in (1.0, 2.0, 4.0)} == {2 * (3 + 3)}
    assert model.training
    assert layer.coda_part("default").reduction_factor == 3
    ca.set_dense_below(model, 9)
    with pytest.raises(ca.ConfigError, match="fewer than 9 tokens"):
        time_sizes(model, batches, factors=[2], rounds=3)
