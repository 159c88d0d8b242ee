"""Families whose encoder keeps keyword arguments to itself: every layer still gets its context."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers, get_attachment
from conditional_adapters.modules import SequenceContext
from conditional_adapters.modules.context import CONTEXT_ARGUMENT
from tests.helpers.gradients import assert_gradients_close, gradients_of
from tests.helpers.tiny_models import TINY_MODELS

TINY = TINY_MODELS["deberta-v3"]


def attached(**settings: object) -> PreTrainedModel:
    config = ca.ConditionalAdapterConfig(adapter_dim=5, **settings)
    return ca.attach(TINY.build("eager"), config)


def test_two_forwards_before_one_backward_each_keep_their_own_reduction_factor() -> None:
    torch.manual_seed(0)
    model = attached(reduction_factor=(2, 5)).train()
    inputs = TINY.inputs()
    expected = None
    for is_checkpointed in (False, True):
        if is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        widths, loss = [], torch.zeros(())
        for seed in range(4):
            torch.manual_seed(seed)
            with ca.record_routing(model) as routing:
                loss = loss + model(**inputs).logits.square().sum()
            widths.append(routing.layers[0].selected_indices.shape[1])
        assert len(set(widths)) == 2  # both factors were drawn
        loss.backward()
        found = gradients_of(model.named_parameters())
        expected = expected or found
    assert_gradients_close(found, expected)


def test_two_threads_do_not_see_each_others_lengths() -> None:
    model = attached(reduction_factor=3)
    batches = [TINY.make_inputs("none"), TINY.make_inputs("right"), TINY.make_inputs("left")]
    with torch.no_grad():
        expected = [model(**batch).logits for batch in batches]
    barrier = Barrier(len(batches), timeout=60)

    def meet(layer: object, args: object, output: object) -> None:
        barrier.wait()

    conditional_layers(model)[0].register_forward_hook(meet)

    def run(batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return model(**batch).logits

    with ThreadPoolExecutor(len(batches)) as pool:
        for actual, wanted in zip(pool.map(run, batches), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


def test_a_context_ends_with_its_forward_pass_even_if_that_fails() -> None:
    model, inputs = attached(), TINY.inputs()
    (hook,) = get_attachment(model).hooks
    seen: list[SequenceContext] = []
    layer = conditional_layers(model)[0]
    handle = layer.register_forward_pre_hook(
        lambda layer, args, kwargs: seen.append(kwargs[CONTEXT_ARGUMENT]), with_kwargs=True
    )
    model(**inputs)
    assert isinstance(seen[0], SequenceContext)
    assert not hook.scope.contexts
    handle.remove()
    layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**inputs)
    assert not hook.scope.contexts


def test_a_layer_called_outside_its_model_says_so() -> None:
    model = attached()
    states, mask = torch.randn(2, 7, 32), torch.ones(2, 1, 7, 7)
    with pytest.raises(ca.AttachmentError, match="outside a forward pass of its model"):
        conditional_layers(model)[0](states, mask)
    ca.set_adapter(model, None)
    embeddings = model.deberta.encoder.get_rel_embedding()
    conditional_layers(model)[0](states, mask, rel_embeddings=embeddings)  # dense: nothing to know


def test_detached_copies_leave_no_hooks() -> None:
    for model in (attached(), copy.deepcopy(attached()), pickle.loads(pickle.dumps(attached()))):
        ca.detach(model)
        for module in model.modules():
            assert not module._forward_pre_hooks
            assert not module._forward_hooks
