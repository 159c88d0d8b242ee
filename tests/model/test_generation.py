"""Encoder-decoders generate: the encoder routes, the decoder stays dense and sees every state."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters
from conditional_adapters.modules import ConditionalLayer, conditional_layer, context
from tests.helpers.gradients import assert_trained
from tests.helpers.tiny_models import TINY_MODELS

# With the side on which each family takes padding.
FAMILIES = {
    "t5": "left",
    "umt5": "right",
    "t5gemma": "left",
    "bart": "right",
    "m2m_100": "left",
    "whisper": "none",
}
NEW_TOKENS = 8

families = pytest.mark.parametrize("name", FAMILIES)


def make_model(name: str) -> PreTrainedModel:
    """Build a model whose answers depend on its input; small random weights always say the same."""
    tiny = TINY_MODELS[name]
    model = tiny.build(tiny.attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.4)
    return model


def make_inputs(name: str) -> dict[str, Tensor]:
    inputs = TINY_MODELS[name].make_inputs(FAMILIES[name])
    return {key: value for key, value in inputs.items() if not key.startswith("decoder_")}


def attach(model: PreTrainedModel, **settings: object) -> PreTrainedModel:
    return ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=5, **settings))


def train(model: PreTrainedModel) -> None:
    """Give every parameter of the adapter another value, as training would."""
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, "default"):
            parameter.add_(0.2 * torch.randn_like(parameter))


def generate(model: PreTrainedModel, inputs: dict[str, Tensor], **settings: object) -> Tensor:
    """Generate tokens, none of them twice: random decoders like to repeat what they are given."""
    length = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return model.generate(**inputs, **length, no_repeat_ngram_size=1, do_sample=False, **settings)


@families
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_fresh_adapter_that_keeps_all_tokens_generates_what_the_dense_model_does(
    name: str, num_beams: int
) -> None:
    model, inputs = make_model(name), make_inputs(name)
    dense = generate(model, inputs, num_beams=num_beams)
    assert not torch.equal(dense[0], dense[1])
    attach(model, reduction_factor=1)
    for factor in (1, 1.0001):
        ca.set_reduction_factor(model, factor)
        assert torch.equal(generate(model, inputs, num_beams=num_beams), dense)


@families
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_decoder_attends_to_the_encoders_states_of_all_tokens(
    name: str, num_beams: int
) -> None:
    model, inputs = attach(make_model(name), reduction_factor=3), make_inputs(name)
    seen: list[Tensor] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    with torch.no_grad(), ca.record_routing(model) as routing:
        expected = model.get_encoder()(**inputs).last_hidden_state
    generate(model, inputs, num_beams=num_beams)
    batch, seq = routing.layers[0].router_logits.shape
    assert routing.layers[0].selected_indices.shape[1] == -(-seq // 3)
    assert expected.shape[:2] == (batch, seq)
    assert len(seen) == NEW_TOKENS
    for states in seen:
        assert torch.equal(states, expected.repeat_interleave(num_beams, dim=0))


@families
def test_the_decoders_adapters_have_no_routers_and_learn(name: str) -> None:
    model, inputs = attach(make_model(name), reduction_factor=3), make_inputs(name)
    train(model)
    layers = [m for m in model.get_decoder().modules() if isinstance(m, ConditionalLayer)]
    assert len(layers) == model.config.get_text_config(decoder=True).num_hidden_layers
    model(**inputs, labels=torch.randint(3, 60, (2, 4))).loss.backward()
    for layer in layers:
        parts = layer.coda_part("default")
        assert parts.router is None
        assert_trained(parts.named_parameters())


@families
def test_the_cache_changes_no_token(name: str) -> None:
    model, inputs = attach(make_model(name), reduction_factor=3), make_inputs(name)
    fresh = generate(model, inputs)
    train(model)
    with_cache = generate(model, inputs, use_cache=True)
    assert not torch.equal(with_cache, fresh)
    assert torch.equal(generate(model, inputs, use_cache=False), with_cache)


@families
def test_a_decoder_without_adapters_is_left_alone(name: str) -> None:
    model, inputs = make_model(name), make_inputs(name)
    decoder = model.get_decoder()
    classes, names = [type(m) for m in decoder.modules()], list(decoder.state_dict())
    attach(model, reduction_factor=3, adapt_decoder=False)
    assert [type(m) for m in decoder.modules()] == classes
    assert list(decoder.state_dict()) == names
    assert generate(model, inputs).shape[0] == 2


@families
def test_a_loaded_adapter_generates_the_same_tokens(name: str, tmp_path) -> None:
    model, inputs = make_model(name), make_inputs(name)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    train(attach(model, reduction_factor=3))
    ca.save_adapter(model, tmp_path / "adapter")
    fresh = make_model(name)
    fresh.load_state_dict(base)
    ca.load_adapter(fresh, tmp_path / "adapter")
    assert torch.equal(generate(fresh, inputs), generate(model, inputs))


@families
def test_generating_asks_for_the_lengths_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = attach(make_model(name), reduction_factor=3), make_inputs(name)
    calls = []
    read_lengths = context.sequence_context

    def counted(*args: object, **kwargs: object) -> context.SequenceContext:
        calls.append(args)
        return read_lengths(*args, **kwargs)

    monkeypatch.setattr(context, "sequence_context", counted)
    monkeypatch.setattr(conditional_layer, "sequence_context", counted)
    generate(model, inputs)
    assert len(calls) == 1
