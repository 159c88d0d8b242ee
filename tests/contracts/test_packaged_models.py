"""The promises that matter most, on the real weights of MiniLM, DINOv2 and Whisper."""

import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.toolkit.assets import (
    bbc_news,
    load_packaged_model,
    load_packaged_tokenizer,
)

MODELS = ["minilm", "dinov2", "whisper"]


def make(name: str, needs):
    needs(name)
    return load_packaged_model(name)


def real_inputs(name: str, needs) -> dict[str, torch.Tensor]:
    if name == "minilm":
        needs("bbc_news")
        texts = [article.text for article in bbc_news()[:300:100]]
        return dict(
            load_packaged_tokenizer("minilm")(
                texts, truncation=True, max_length=128, padding=True, return_tensors="pt"
            )
        )
    if name == "dinov2":
        return {"pixel_values": torch.rand(2, 3, 98, 98)}
    return {
        "input_features": torch.randn(1, 80, 3000).cumsum(-1) * 0.01,
        "decoder_input_ids": torch.tensor([[50257, 50362]]),
    }


def run(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        output = model(**inputs)
    mask = inputs.get("attention_mask")
    states = output.logits if "logits" in output else output.last_hidden_state
    return states if mask is None else states[mask.bool()]


@pytest.mark.parametrize("name", MODELS)
def test_all_tokens_and_a_fresh_adapter_give_the_dense_output(name: str, needs) -> None:
    model, inputs = make(name, needs), real_inputs(name, needs)
    dense = run(model, inputs)
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=1.0001))
    conditional = run(model, inputs)
    assert (conditional - dense).abs().max() / dense.abs().max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_detach_gives_back_the_dense_model_bit_for_bit(name: str, needs) -> None:
    model, inputs = make(name, needs), real_inputs(name, needs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dense = run(model, inputs)
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=4))
    assert not torch.equal(run(model, inputs), dense)
    ca.detach(model)
    assert torch.equal(run(model, inputs), dense)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
