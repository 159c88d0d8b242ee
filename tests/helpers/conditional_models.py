"""Tiny models with a conditional adapter whose every parameter matters, and their outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters

from .tiny_models import TINY_MODELS

REDUCTION, ADAPTER_DIM = 3, 5
# One model of each kind, as name, padding and attention mode.
REPRESENTATIVES = [
    ("bert", "right", "k_to_k"),
    ("bert", "left", "k_to_all"),
    ("t5", "none", "k_to_k"),
    ("vit", "none", "k_to_all"),
    ("whisper", "none", "k_to_k"),
    ("wav2vec2-conformer", "right", "k_to_k"),
]


def attach_tiny(name: str, **settings: object) -> PreTrainedModel:
    """A tiny model with a new adapter."""
    tiny = TINY_MODELS[name]
    config = ca.ConditionalAdapterConfig(adapter_dim=ADAPTER_DIM, **settings)
    return ca.attach(tiny.build(tiny.attention), config)


def make_conditional(
    model: PreTrainedModel, reduction_factor: float = REDUCTION, **settings: object
) -> PreTrainedModel:
    """Attach, and give every new parameter a value that matters."""
    config = ca.ConditionalAdapterConfig(
        reduction_factor=reduction_factor, adapter_dim=ADAPTER_DIM, **settings
    )
    ca.attach(model, config)
    with torch.no_grad():
        for path, parameter in adapter_parameters(model, "default"):
            if ".coda_adapters." in path:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_tiny(name: str, mode: str = "k_to_k") -> tuple[PreTrainedModel, dict[str, Tensor]]:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention), attention_mode=mode)
    return model, tiny.inputs()


def logits_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Return what a task model answers, or the embedding or states of one without a task."""
    return answer(model(**inputs))


def logits_and_states_of(
    model: PreTrainedModel, inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return both of one forward pass."""
    output = model(**inputs, output_hidden_states=True)
    return answer(output), torch.stack(all_states(output))


def answer(output: Mapping[str, Tensor]) -> Tensor:
    names = ("logits", "text_embeds", "image_embeds", "last_hidden_state")
    return next(output[name] for name in names if output.get(name) is not None)


def states_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Return what the encoder's layers make of the batch, `[layers + 1, batch, seq, hidden]`."""
    return torch.stack(all_states(model(**inputs, output_hidden_states=True)))


def all_states(output: object) -> tuple[Tensor, ...]:
    return output.get("encoder_hidden_states") or output.hidden_states
