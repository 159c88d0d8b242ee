"""Tiny models with two adapters, "a" and "b", for batches that use both."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters

from .tiny_models import TINY_MODELS

ALIKE = ({}, {})
# "a" and "b" differ in all that a batch can hold.
DIFFERENT = (
    {},
    {
        "reduction_factor": 2,
        "adapter_dim": 7,
        "adapter_activation": "gelu",
        "epsilon": 0.3,
        "gate": "straight_through",
        "train_norms": False,
        "dense_layers": (0,),
        "router_kind": "first",
    },
)


def add(model: PreTrainedModel, name: str, **settings: object) -> None:
    """Add an adapter whose every parameter has a value that matters."""
    config = ca.ConditionalAdapterConfig(
        **{"reduction_factor": 3, "adapter_dim": 5, "modules_to_save": None, **settings}
    )
    try:
        ca.add_adapter(model, config, adapter_name=name)
    except ca.AttachmentError:
        ca.attach(model, config, adapter_name=name)
    with torch.no_grad():
        for path, parameter in adapter_parameters(model, name):
            if ".coda_adapters." in path:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))


def make(
    name: str, padding: str = "none", settings: Sequence[dict] = ALIKE, mode: str = "k_to_k"
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    tiny = TINY_MODELS[name]
    model = tiny.build(tiny.attention)
    for adapter, own in zip("ab", settings, strict=True):
        add(model, adapter, **{"attention_mode": mode, **own})
    return model, tiny.make_inputs(padding)
