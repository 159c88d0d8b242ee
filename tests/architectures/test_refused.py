"""Families that cannot run on a subset of their tokens are refused, with what to use instead."""

import re

import pytest
from transformers import (
    CONFIG_MAPPING,
    FunnelConfig,
    FunnelModel,
    LongT5Config,
    LongT5Model,
    SwinConfig,
    SwinModel,
)

import conditional_adapters as ca
from conditional_adapters.architectures import (
    _registry,
    architecture_of,
    refused_architectures,
    register_architecture,
)
from tests.helpers.tiny_models import TINY_MODELS

REFUSED = sorted(refused_architectures())


@pytest.mark.parametrize("attention", ["local", "transient-global"])
def test_longt5_is_refused_for_its_blocks(attention: str) -> None:
    config = LongT5Config(
        d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=20,
        encoder_attention_type=attention,
    )  # fmt: skip
    model = LongT5Model(config)
    names = list(model.state_dict())
    with pytest.raises(ca.UnsupportedArchitectureError, match=r"'longt5' cannot .* blocks .*'t5'"):
        ca.attach(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    "model, reason",
    [
        (SwinModel(SwinConfig(image_size=16, embed_dim=8, depths=[1], num_heads=[1])), "windows"),
        (FunnelModel(FunnelConfig(vocab_size=9, d_model=8, n_head=1, d_head=8)), "pools"),
    ],
    ids=["swin", "funnel"],
)
def test_models_whose_layers_need_neighbours_are_refused(model, reason: str) -> None:
    with pytest.raises(ca.UnsupportedArchitectureError, match=f"subset of its tokens: .*{reason}"):
        ca.attach(model)


def test_t5gemma_is_refused_where_its_windows_would_count_selected_tokens() -> None:
    model = TINY_MODELS["t5gemma"].build("eager")
    model.config.encoder._attn_implementation = "flash_attention_2"
    message = r"'flash_attention_2' attention counts .*set_attn_implementation\('eager'\) first"
    with pytest.raises(ca.UnsupportedArchitectureError, match=message):
        ca.attach(model)


def test_modernbert_is_refused_where_its_windows_would_count_selected_tokens() -> None:
    model = TINY_MODELS["modernbert"].build("eager")
    model.config._attn_implementation = "flash_attention_2"
    message = r"'flash_attention_2' attention counts .*set_attn_implementation\('sdpa'\) first"
    with pytest.raises(ca.UnsupportedArchitectureError, match=message):
        ca.attach(model)


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_refusal_names_supported_types_to_use_instead(model_type: str) -> None:
    with pytest.raises(ca.UnsupportedArchitectureError, match=r"Use .* instead") as error:
        architecture_of(model_type)
    subject, *instead = re.findall(r"'([\w-]+)'", str(error.value))
    assert subject == model_type
    assert instead
    assert set(instead) <= set(ca.supported_architectures())


def test_refused_types_exist_and_are_not_listed_as_supported() -> None:
    assert set(REFUSED) <= set(CONFIG_MAPPING)
    assert not set(REFUSED) & set(ca.supported_architectures())


def test_a_record_of_ones_own_overrules_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_SPECS", dict(_registry._SPECS))
    spec = ca.ArchitectureSpec(model_types=("fnet",), layers="encoder.layer")
    assert register_architecture(spec) is architecture_of("fnet")
