import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel
from transformers.models.bert.modeling_bert import BertLayer

import conditional_adapters as ca
from conditional_adapters.model.attachment import (
    adapter_parameters,
    conditional_layers,
    get_attachment,
)
from conditional_adapters.modules import ConditionalLayer
from tests.helpers.gradients import assert_trained
from tests.helpers.tiny_models import TINY_MODELS, pad_text

CONFIG = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5)


def tiny_bert():
    return TINY_MODELS["bert"].build("sdpa")


def test_attach_returns_the_same_object_and_keeps_every_name() -> None:
    model = tiny_bert()
    names = list(model.state_dict())
    assert ca.attach(model, CONFIG) is model
    assert [name for name in model.state_dict() if "coda_" not in name] == names


def test_layers_are_still_instances_of_their_class_and_named_like_it() -> None:
    model = ca.attach(tiny_bert(), CONFIG)
    for layer in conditional_layers(model):
        assert isinstance(layer, BertLayer)
        assert isinstance(layer, ConditionalLayer)
        assert type(layer).__name__ == "BertLayer"  # device maps and FSDP compare names
    assert "ConditionalBertLayer" in repr(model)
    assert len({type(layer) for layer in conditional_layers(model)}) == 1


def test_other_models_of_the_same_class_stay_as_they_are() -> None:
    bystander = tiny_bert()
    ca.attach(tiny_bert(), CONFIG)
    assert not any(isinstance(module, ConditionalLayer) for module in bystander.modules())


def test_attaching_twice_is_an_error() -> None:
    model = ca.attach(tiny_bert(), CONFIG)
    with pytest.raises(ca.AttachmentError, match=r"already has .* \('default'\)\. Call detach"):
        ca.attach(model, CONFIG)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20))
    with pytest.raises(ca.UnsupportedArchitectureError, match=r"'gpt2'\. Known types: .*bert.*vit"):
        ca.attach(model, CONFIG)


def test_a_module_without_a_transformers_model_is_refused() -> None:
    with pytest.raises(ca.UnsupportedArchitectureError, match="Linear contains no transformers"):
        ca.attach(torch.nn.Linear(2, 2), CONFIG)


def test_a_causal_decoder_is_refused() -> None:
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=20,
        is_decoder=True,
    )
    with pytest.raises(ca.UnsupportedArchitectureError, match="causal decoder"):
        ca.attach(BertLMHeadModel(config), CONFIG)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dense_layers": (3,)}, "dense_layers contains 3, but the encoder has 3 layers"),
        ({"modules_to_save": ("head",)}, r"names 'head', .*children are .*'classifier'"),
        ({"modules_to_save": ("encoder",)}, "contains the encoder's layers"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_touched(settings, message) -> None:
    model = tiny_bert()
    with pytest.raises(ca.ConfigError, match=message):
        ca.attach(model, ca.ConditionalAdapterConfig(**settings))
    assert not any(isinstance(module, ConditionalLayer) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_flex_attention_is_refused() -> None:
    model = tiny_bert()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ca.ConfigError, match="flex attention is not supported"):
        ca.attach(model, CONFIG)


def test_an_odd_adapter_name_is_refused() -> None:
    with pytest.raises(ca.ConfigError, match=r"got 'a\.b'"):
        ca.attach(tiny_bert(), CONFIG, adapter_name="a.b")


def test_the_calls_on_a_dense_model_say_what_to_do() -> None:
    model = tiny_bert()
    for call in (
        lambda: ca.detach(model),
        lambda: ca.set_reduction_factor(model, 2),
        lambda: ca.set_adapter(model, None),
        lambda: ca.count_parameters(model),
        lambda: ca.save_adapter(model, "unused"),
    ):
        with pytest.raises(ca.AttachmentError, match="no conditional adapters"):
            call()


def test_the_reduction_factor_is_a_run_time_value() -> None:
    tiny = TINY_MODELS["bert"]
    model, inputs = ca.attach(tiny_bert(), CONFIG), tiny.inputs()
    widths = []
    for factor in (2, 3, 11):
        ca.set_reduction_factor(model, factor)
        with torch.no_grad(), ca.record_routing(model) as routing:
            model(**inputs)
        widths.append(routing.layers[0].selected_indices.shape[1])
    assert widths == [6, 4, 1]
    with pytest.raises(ca.ConfigError, match=r"at least 1 .*got 0\.9"):
        ca.set_reduction_factor(model, 0.9)


def test_an_elastic_adapter_samples_its_factors_in_training_only() -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=(2, 4), adapter_dim=5)
    model, inputs = ca.attach(tiny_bert(), config), TINY_MODELS["bert"].inputs()

    def widths(num_passes: int) -> set[int]:
        seen = set()
        for _ in range(num_passes):
            with torch.no_grad(), ca.record_routing(model) as routing:
                model(**inputs)
            per_layer = {d.selected_indices.shape[1] for d in routing.layers}
            assert len(per_layer) == 1  # one factor per forward pass
            seen |= per_layer
        return seen

    assert widths(3) == {6}
    model.train()
    assert widths(30) == {6, 3}


def test_routers_start_alike_and_are_trained_apart() -> None:
    model = ca.attach(tiny_bert(), CONFIG)
    weights = [layer.coda_part("default").router.weight for layer in conditional_layers(model)]
    assert all(torch.equal(weight, weights[0]) for weight in weights[1:])
    assert len({weight.data_ptr() for weight in weights}) == len(weights)


def test_dense_layers_keep_all_tokens_and_get_an_adapter() -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5, dense_layers=(0, -1))
    model = ca.attach(tiny_bert(), config)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**TINY_MODELS["bert"].inputs())
    assert [decision is None for decision in routing.layers] == [True, False, True]
    routers = [name for name, _ in adapter_parameters(model, "default") if ".router." in name]
    assert len(routers) == 1


def test_the_decoder_stays_dense_and_gets_adapters_if_wanted() -> None:
    for adapt_decoder in (True, False):
        model = TINY_MODELS["t5"].build("sdpa")
        config = ca.ConditionalAdapterConfig(adapter_dim=5, adapt_decoder=adapt_decoder)
        ca.attach(model, config)
        names = [name for name, _ in adapter_parameters(model, "default")]
        in_decoder = [name for name in names if name.startswith("decoder.")]
        assert bool(in_decoder) is adapt_decoder
        assert not [name for name in in_decoder if ".router." in name]


def test_generation_with_all_tokens_equals_the_dense_model() -> None:
    model, inputs = TINY_MODELS["t5"].build("sdpa"), pad_text(TINY_MODELS["t5"].inputs(), "right")
    del inputs["decoder_input_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2}
    dense = model.generate(**inputs, **settings)
    config = ca.ConditionalAdapterConfig(reduction_factor=1.0001, adapter_dim=5)
    assert torch.equal(ca.attach(model, config).generate(**inputs, **settings), dense)
    ca.set_reduction_factor(model, 3)
    assert model.generate(**inputs, **settings).shape[0] == 2


@pytest.mark.parametrize("router_kind", ["random", "first", "strided"])
def test_baseline_routers_have_no_parameters_and_repeat_themselves(router_kind) -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5, router_kind=router_kind)
    model = ca.attach(tiny_bert(), config)
    inputs = pad_text(TINY_MODELS["bert"].inputs(), "right")
    assert not [name for name, _ in adapter_parameters(model, "default") if ".router." in name]
    with torch.no_grad(), ca.record_routing(model) as routing:
        first = model(**inputs).logits
        decision = routing.layers[0]
        assert torch.equal(model(**inputs).logits, first)
    assert torch.equal(decision.selected_weights, decision.is_selected.float())
    if router_kind == "first":
        assert decision.selected_indices[0].tolist() == [0, 1, 2, 3]


def test_the_straight_through_gate_has_weight_one_and_a_gradient() -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5, gate="straight_through")
    model = ca.attach(tiny_bert(), config)
    with ca.record_routing(model) as routing:
        states = model(**TINY_MODELS["bert"].inputs(), output_hidden_states=True).hidden_states
        states[-1].square().sum().backward()
    for decision in routing.layers:
        torch.testing.assert_close(
            decision.selected_weights, torch.ones_like(decision.selected_weights)
        )
    assert_trained(p for p in adapter_parameters(model, "default") if ".router." in p[0])


def test_each_adapter_of_a_model_has_its_own_values_and_norms() -> None:
    model, inputs = tiny_bert(), TINY_MODELS["bert"].inputs()
    with torch.no_grad():
        dense = model(**inputs).logits
        ca.attach(model, CONFIG, adapter_name="one")
        ca.add_adapter(model, CONFIG, adapter_name="two")
        for name in ("one", "two"):
            for _, parameter in adapter_parameters(model, name):
                parameter.add_(0.2 * torch.randn_like(parameter))
        outputs = {}
        for name in ("one", "two", None):
            ca.set_adapter(model, name)
            outputs[name] = model(**inputs).logits
        assert torch.equal(outputs[None], dense)
        assert not torch.equal(outputs["one"], outputs["two"])
        ca.set_adapter(model, "one")
        ca.remove_adapter(model, "two")
        assert torch.equal(model(**inputs).logits, outputs["one"])
        assert torch.equal(ca.detach(model)(**inputs).logits, dense)


def test_a_new_adapter_starts_from_the_pretrained_norms() -> None:
    model = ca.attach(tiny_bert(), CONFIG, adapter_name="one")
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, "one"):
            parameter.add_(1.0)
    ca.add_adapter(model, CONFIG, adapter_name="two")
    norm = model.bert.encoder.layer[0].output.LayerNorm
    assert torch.equal(norm.coda_copies["two"].weight, norm.weight)
    assert not torch.equal(norm.coda_copies["one"].weight, norm.weight)


def test_adapters_are_named_and_cannot_be_confused() -> None:
    model = ca.attach(tiny_bert(), CONFIG)
    with pytest.raises(ca.AttachmentError, match="already has an adapter 'default'"):
        ca.add_adapter(model, CONFIG, adapter_name="default")
    with pytest.raises(ca.AttachmentError, match=r"no adapter 'x'. It has \['default'\]"):
        ca.set_adapter(model, "x")
    with pytest.raises(ca.AttachmentError, match="call detach"):
        ca.remove_adapter(model, "default")


def test_half_precision_models_get_adapters_in_float32() -> None:
    model = ca.attach(tiny_bert().to(torch.bfloat16), CONFIG)
    dtypes = {p.dtype for n, p in adapter_parameters(model, "default") if ".coda_adapters." in n}
    assert dtypes == {torch.float32}


def test_lora_inside_the_frozen_layer_acts_on_the_chosen_tokens_and_trains() -> None:
    inputs = pad_text(TINY_MODELS["bert"].inputs(), "right")
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"])
    model = get_peft_model(tiny_bert(), lora)
    ca.attach(model, CONFIG)
    widths = set()
    lora_layers = [m for n, m in model.named_modules() if n.endswith("lora_A.default")]
    for layer in lora_layers:
        layer.register_forward_pre_hook(lambda m, args: widths.add(args[0].shape[1]) or None)
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert widths == {4}
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert any("lora_B" in name for name in trained)
    assert any("coda_adapters" in name for name in trained)
    assert any("modules_to_save" in name for name in trained)  # PEFT keeps the head
    assert not any("base_layer" in name for name in trained)
    assert get_attachment(model).heads["default"] == ()
    ca.detach(model)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names
    assert all("lora_" in name or "modules_to_save" in name for name in names)


def test_device_maps_still_recognise_layers_by_name() -> None:
    from accelerate import infer_auto_device_map

    model = ca.attach(tiny_bert(), CONFIG)
    budget = {0: "60KB", "cpu": "1GB"}
    device_map = infer_auto_device_map(
        model, max_memory=budget, no_split_module_classes=model._no_split_modules
    )
    split = [k for k in device_map if ".layer." in k and len(k.split(".layer.")[1].split(".")) > 1]
    assert not split


def test_detach_takes_away_several_mixins_of_one_module() -> None:
    model = tiny_bert()
    before = {name: type(module) for name, module in model.named_modules()}
    config = ca.ConditionalAdapterConfig(
        attention_mode="k_to_all", modules_to_save=("attention.self",)
    )
    ca.detach(ca.attach(model, config))
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert not [key for module in model.modules() for key in vars(module) if "coda_" in key]
