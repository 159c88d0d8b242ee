"""`record_routing` records the decisions of each layer, and counts tokens by them."""

import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters
from tests.helpers.conditional_models import attach_tiny
from tests.helpers.tiny_models import LAYERS, TINY_MODELS, pad_text


def test_recording_stops_with_its_context() -> None:
    model, inputs = attach_tiny("bert", reduction_factor=3), TINY_MODELS["bert"].inputs()
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    first = routing.layers[0]
    model(**inputs)
    assert routing.layers[0] is first


def test_layer_counts_count_the_layers_that_processed_each_token() -> None:
    model = attach_tiny("bert", reduction_factor=3, dense_layers=(1,))
    inputs = pad_text(TINY_MODELS["bert"].inputs(), "right")
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    expected = torch.zeros(2, 11, dtype=torch.int64)
    for decision in routing.layers:
        if decision is not None:
            for row in range(2):
                for slot, position in enumerate(decision.selected_indices[row]):
                    expected[row, position] += int(decision.is_selected[row, slot])
    assert torch.equal(routing.layer_counts(), expected)
    assert expected[:, 0].tolist() == [2, 2]  # CLS, in both routed layers
    assert expected[1, -4:].sum() == 0  # padding


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_dense_layers_process_all_but_padding_and_routed_ones_what_they_chose(side) -> None:
    tiny = TINY_MODELS["bert"]
    config = ca.ConditionalAdapterConfig(reduction_factor=3, dense_layers=(1,))
    model = ca.attach(tiny.build("sdpa"), config)
    inputs = tiny.inputs() if side is None else pad_text(tiny.inputs(), side)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    processed = routing.processed_tokens()
    batch, seq = inputs["input_ids"].shape
    assert processed.shape == (3, batch, seq)
    assert processed[[0, 2]].sum(0).equal(routing.layer_counts())
    for layer, decision in enumerate(routing.layers):
        for row in range(batch):
            valid = inputs["attention_mask"][row].tolist() if side else [1] * seq
            if decision is None:
                expected = {token for token in range(seq) if valid[token]}
            else:
                slots = zip(
                    decision.selected_indices[row].tolist(), decision.is_selected[row], strict=True
                )
                expected = {token for token, is_used in slots if is_used}
            assert set(processed[layer, row].nonzero().flatten().tolist()) == expected


def test_routing_of_a_dense_adapter_is_empty() -> None:
    model = attach_tiny("bert", reduction_factor=1)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**TINY_MODELS["bert"].inputs())
    assert routing.layers == [None] * LAYERS
    assert not [n for n, p in adapter_parameters(model, "default") if p.grad is not None]
