"""Running statistics of a frozen model stay frozen too."""

import copy
import pickle

import pytest
import torch
import transformers as hf
from torch import nn

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from tests.helpers.tiny_models import TINY_MODELS
from tests.helpers.tiny_models.wav2vec2 import WAVEFORM

CONFIG = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5)


def build_hubert() -> hf.PreTrainedModel:
    return hf.HubertForCTC(hf.HubertConfig(**WAVEFORM, conv_pos_batch_norm=True))


def build_conformer() -> hf.PreTrainedModel:
    return TINY_MODELS["wav2vec2-conformer"].build("sdpa")


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


@pytest.mark.parametrize("build", [build_hubert, build_conformer])
def test_training_leaves_running_statistics_alone(build) -> None:
    model, inputs = build().train(), {"input_values": torch.randn(2, 88)}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert batch_norms(model)
    ca.attach(model, CONFIG)
    model.train()
    assert not any(norm.training for norm in batch_norms(model))
    assert all(layer.training for layer in conditional_layers(model))
    model(**inputs).logits.sum().backward()
    ca.set_adapter(model, None)
    model.train()(**inputs)
    ca.detach(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(type(norm) is nn.BatchNorm1d and norm.training for norm in batch_norms(model))


def test_detach_gives_normalisation_the_mode_of_the_model() -> None:
    model = ca.detach(ca.attach(build_conformer().train(), CONFIG).eval())
    assert not any(norm.training for norm in batch_norms(model))


def test_copies_keep_their_statistics_frozen() -> None:
    norm = batch_norms(ca.attach(build_conformer(), CONFIG))[0]
    for clone in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert not clone.train().training


def test_statistics_of_a_trained_head_are_gathered() -> None:
    model = TINY_MODELS["vit"].build("sdpa")
    model.classifier = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 3))
    ca.attach(model, CONFIG).train()
    original, trained = batch_norms(model)
    model(**TINY_MODELS["vit"].inputs())
    assert trained.running_mean.any()
    assert not original.running_mean.any()
