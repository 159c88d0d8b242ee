"""`output_attentions` of routed layers: attention among the chosen tokens, as documented."""

import pytest
import torch
from torch import Tensor

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from tests.helpers.tiny_models import HEADS, TINY_MODELS


def attentions_of(output: object) -> tuple[Tensor, ...]:
    return output.get("encoder_attentions") or output.attentions


@pytest.mark.parametrize("mode", ["k_to_k", "k_to_all"])
@pytest.mark.parametrize("name", ["bert", "t5", "vit", "whisper", "modernbert"])
def test_attentions_are_those_of_the_chosen_tokens(name: str, mode: str) -> None:
    tiny = TINY_MODELS[name]
    model, inputs = tiny.build("eager"), tiny.inputs()
    config = ca.ConditionalAdapterConfig(
        reduction_factor=3, attention_mode=mode, dense_layers=(0,), train_norms=False
    )
    with torch.no_grad():
        dense = attentions_of(model(**inputs, output_attentions=True))
        ca.attach(model, config)
        with ca.record_routing(model) as routing:
            actual = attentions_of(model(**inputs, output_attentions=True))
    assert len(actual) == len(conditional_layers(model))
    torch.testing.assert_close(actual[0], dense[0])  # a dense layer reports as ever
    # The second layer sees the states that the dense one sees, so its scores agree where it looks.
    decision, scores = routing.layers[1], dense[1]
    k, seq = decision.selected_indices.shape[1], scores.shape[-1]
    assert actual[1].shape == (2, HEADS, k, k if mode == "k_to_k" else seq)
    torch.testing.assert_close(actual[1].sum(-1), torch.ones(2, HEADS, k))
    for row in range(2):
        index = decision.selected_indices[row]
        expected = scores[row][:, index]
        if mode == "k_to_k":
            expected = expected[:, :, index]
            expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(actual[1][row], expected, atol=1e-5, rtol=1e-4)
