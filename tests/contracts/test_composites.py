"""Models that hold their encoder as a model of its own, and what only some vision models do."""

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from tests.helpers.tiny_models import HIDDEN, LAYERS, TINY_MODELS, TinyModel

CONFIG = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5)
PARTS = {
    "clip": "vision_model",
    "siglip": "vision_model",
    "siglip2": "vision_model",
    "vision-encoder-decoder": "encoder",
    "pix2struct": "encoder",
}
WITH_HEAD = ("clip", "siglip", "siglip2")


@pytest.fixture(params=PARTS)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return TINY_MODELS[request.param]


@pytest.mark.parametrize("name", PARTS)
def test_the_layers_of_the_inner_encoder_become_conditional(name: str) -> None:
    model = ca.attach(TINY_MODELS[name].build("eager"), CONFIG)
    part = model.get_submodule(PARTS[name])
    layers = conditional_layers(model)
    assert len(layers) == LAYERS
    assert all(layer in set(part.modules()) for layer in layers)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("coda_" in n for n in names)
    assert any(n.startswith("classifier.") for n in names) == (name in WITH_HEAD)


@pytest.mark.parametrize("name", PARTS)
def test_new_parameters_are_those_of_routers_and_adapters(name: str) -> None:
    model = TINY_MODELS[name].build("eager")
    dense = sum(p.numel() for p in model.parameters())
    count = ca.count_parameters(ca.attach(model, CONFIG))
    adapter = sum(p.numel() for p in conditional_layers(model)[0].coda_adapters.parameters())
    assert count.new == LAYERS * adapter
    assert count.total == dense + count.new
    assert adapter > HIDDEN


def test_computation_falls_with_the_reduction_factor(tiny: TinyModel) -> None:
    model, inputs = ca.attach(tiny.build("eager"), CONFIG), tiny.inputs()
    totals = []
    for factor in (1, 2, 4):
        ca.set_reduction_factor(model, factor)
        totals.append(ca.estimate_flops(model, inputs=inputs).total)
    assert totals[0] > totals[1] > totals[2]


@pytest.mark.parametrize("name", PARTS)
def test_the_inner_encoder_alone_takes_an_adapter_too(name: str) -> None:
    model = TINY_MODELS[name].build("eager")
    part = ca.attach(model.get_submodule(PARTS[name]), CONFIG)
    assert len(conditional_layers(part)) == LAYERS
    ca.detach(part)


@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_both_towers_of_clip_take_an_adapter(tower: str) -> None:
    config = TINY_MODELS["clip"].build("eager").config
    model = hf.CLIPModel(config).eval()
    ids = TINY_MODELS["clip_text_model"].inputs()["input_ids"]
    images = TINY_MODELS["clip"].inputs()["pixel_values"]

    def answers() -> dict[str, Tensor]:
        with torch.no_grad():
            output = model(input_ids=ids, pixel_values=images)
        return {"text_model": output.text_embeds, "vision_model": output.image_embeds}

    dense = answers()
    ca.attach(model.get_submodule(tower), CONFIG)
    for name, embeds in answers().items():
        assert torch.equal(embeds, dense[name]) == (name != tower)


@pytest.mark.parametrize("name", ["vision-encoder-decoder", "pix2struct"])
def test_generation_computes_the_encoder_once_and_routes_it(name: str) -> None:
    tiny = TINY_MODELS[name]
    model, inputs = ca.attach(tiny.build("eager"), CONFIG), tiny.inputs()
    del inputs["decoder_input_ids"]
    calls = []
    first = conditional_layers(model)[0]
    first.register_forward_hook(lambda *args: calls.append(args))
    with ca.record_routing(model) as routing:
        tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert tokens.shape[0] == 2
    assert len(calls) == 1
    assert all(d.selected_indices.shape[1] < d.router_logits.shape[1] for d in routing.layers)


def test_an_unknown_encoder_inside_is_refused_by_its_own_name() -> None:
    encoder = hf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1], num_heads=[1])
    decoder = hf.TrOCRConfig(d_model=8, decoder_layers=1, decoder_attention_heads=1, vocab_size=9)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = hf.VisionEncoderDecoderModel(config)
    with pytest.raises(ca.UnsupportedArchitectureError, match="'swin'"):
        ca.attach(model, CONFIG)
    assert not any("coda" in type(m).__name__.lower() for m in model.modules())


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_larger_images_with_interpolated_positions_are_routed(name: str) -> None:
    tiny = TINY_MODELS[name]
    model: nn.Module = tiny.build("sdpa")
    images = torch.randn(2, 3, 24, 24)
    settings = {} if name == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        dense = model(images, **settings).logits
        ca.attach(model, CONFIG)
        with ca.record_routing(model) as routing:
            model(images, **settings)
        assert all(d.router_logits.shape[1] == 37 for d in routing.layers)
        assert all(d.selected_indices.shape[1] == 13 for d in routing.layers)
        ca.set_reduction_factor(model, 1)
        torch.testing.assert_close(model(images, **settings).logits, dense)


@pytest.mark.parametrize("name", ["vit", "vivit", "audio-spectrogram-transformer", "hubert"])
def test_the_task_head_is_trained_and_nothing_else_of_the_model(name: str) -> None:
    model = ca.attach(TINY_MODELS[name].build("eager"), CONFIG)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    heads = {n.split(".")[0] for n in trained if "layer" not in n}
    assert heads == ({"classifier", "projector"} if name == "hubert" else {"classifier"})
