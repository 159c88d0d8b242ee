"""Counts of parameters against closed forms."""

import conditional_adapters as ca
from tests.helpers.conditional_models import ADAPTER_DIM, attach_tiny
from tests.helpers.tiny_models import HIDDEN, LAYERS, TINY_MODELS

CLASSES = 3


def test_parameter_counts_agree_with_the_closed_form() -> None:
    dense = TINY_MODELS["bert"].build("sdpa")
    size = sum(p.numel() for p in dense.parameters())
    norms = (2 * LAYERS + 1) * 2 * HIDDEN
    head = CLASSES * HIDDEN + CLASSES + HIDDEN * HIDDEN + HIDDEN  # classifier and pooler
    new = LAYERS * (2 * HIDDEN * ADAPTER_DIM + HIDDEN)
    model = attach_tiny("bert")
    count = ca.count_parameters(model)
    assert count == ca.ParameterCount(new=new, trainable=new + norms + head, total=size + new)
    assert count.new_share == new / size
    ca.add_adapter(
        model, ca.ConditionalAdapterConfig(adapter_dim=2 * ADAPTER_DIM), adapter_name="other"
    )
    assert ca.count_parameters(model).new == LAYERS * (4 * HIDDEN * ADAPTER_DIM + HIDDEN)
