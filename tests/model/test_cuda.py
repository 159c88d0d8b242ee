"""Conditional models on a GPU: the CPU's numbers, both kernel backends, graphs, no waiting."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from benchmarks._gpu_cells import capture, synchronisations
from conditional_adapters import ops
from conditional_adapters.model.attachment import adapter_parameters
from conditional_adapters.model.structure import find_sites
from tests.helpers.conditional_models import answer, logits_of, make_conditional
from tests.helpers.gradients import assert_gradients_close, gradients_of
from tests.helpers.mixed_batches import DIFFERENT
from tests.helpers.mixed_batches import make as make_mixed
from tests.helpers.tiny_models import TINY_MODELS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
    pytest.mark.filterwarnings("default"),  # what torch says about a GPU is not the matter here
]
# Each model as it is mostly used, and with padding in the mode that changes more.
CASES = [
    pytest.param(name, padding, mode, id=f"{name}-{padding}-{mode}")
    for name, tiny in TINY_MODELS.items()
    for padding, mode in (("none", "k_to_k"), ("right", tiny.modes[-1]))
    if padding in tiny.paddings
]
FEW = ("bert", "t5", "vit", "whisper")
Inputs = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """Convolutions would otherwise round their inputs to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def make(name: str, padding: str = "none", **settings: object) -> tuple[PreTrainedModel, Inputs]:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention), 2, **settings)
    return model, tiny.make_inputs(padding)


def encode(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Return what the encoder, and the head if it has one, makes of its inputs."""
    own = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    return answer(find_sites(model).runner(**own))


def on_gpu(inputs: Inputs) -> Inputs:
    return {name: value.cuda() for name, value in inputs.items()}


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp_min(1)
    torch.testing.assert_close(actual.cpu() / scale, expected / scale, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name, padding, mode", CASES)
def test_a_model_answers_as_on_the_cpu(name: str, padding: str, mode: str) -> None:
    check_answers(*make(name, padding, attention_mode=mode))


@pytest.mark.parametrize(
    "settings",
    [
        {"router_kind": "random"},
        {"router_kind": "strided"},
        {"soft_topk": "iterative"},
        {"gate": "straight_through"},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
@pytest.mark.parametrize("padding", ["none", "right"])
def test_so_it_does_with_other_routers(padding: str, settings: dict[str, object]) -> None:
    check_answers(*make("bert", padding, **settings))


@torch.no_grad()
def check_answers(model: PreTrainedModel, inputs: Inputs) -> None:
    fresh = copy.deepcopy(model)  # families keep tables where they were first needed
    expected = logits_of(model, inputs)
    model, inputs = fresh.cuda(), on_gpu(inputs)
    assert_close(logits_of(model, inputs), expected)
    with ops.set_kernel_backend("triton"):
        assert_close(logits_of(model, inputs), expected)


@torch.no_grad()
def test_adapters_of_other_sizes_share_a_batch() -> None:
    model, inputs = make_mixed("bert", "right", DIFFERENT)
    names = {"adapter_names": ["b", "a"]}
    expected = logits_of(model, inputs | names)
    model, inputs = model.cuda(), on_gpu(inputs)
    for backend in ("torch", "triton"):
        with ops.set_kernel_backend(backend):
            assert_close(logits_of(model, inputs | names), expected)


def test_operations_are_counted_from_sizes() -> None:
    model, _ = make("bert")
    expected = ca.estimate_flops(model, batch_size=2, sequence_length=16)
    assert ca.estimate_flops(model.cuda(), batch_size=2, sequence_length=16) == expected


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", FEW)
def test_new_parameters_get_the_gradients_of_the_cpu(name: str, backend: ops.KernelBackend) -> None:
    def gradients(model: PreTrainedModel, inputs: Inputs) -> dict[str, Tensor]:
        logits_of(model, inputs).square().sum().backward()
        found = gradients_of(adapter_parameters(model, "default"))
        return {name: gradient.cpu() for name, gradient in found.items()}

    model, inputs = make(name)
    fresh = copy.deepcopy(model)
    expected = gradients(model, inputs)
    with ops.set_kernel_backend(backend):
        found = gradients(fresh.cuda(), on_gpu(inputs))
    assert len(expected) > 4
    assert_gradients_close(found, expected, atol=1e-4, rtol=1e-4, is_scaled=True)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name, padding", [*((name, "none") for name in FEW), ("bert", "right")])
def test_a_cuda_graph_repeats_the_forward_pass_on_new_inputs(
    name: str, padding: str, backend: ops.KernelBackend
) -> None:
    model, first = make(name, padding)
    model, first, second = model.cuda(), on_gpu(first), on_gpu(make(name, padding)[1])
    buffers, outputs = copy.deepcopy(first), []

    def run() -> None:
        outputs.append(encode(model, buffers))

    with torch.inference_mode(), ops.set_kernel_backend(backend):
        graph = capture(run)
        for inputs in (second, first):
            for key, value in inputs.items():
                buffers[key].copy_(value)
            graph.replay()
            assert_close(outputs[-1], encode(model, inputs).cpu())


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", FEW)
def test_bfloat16_runs(name: str, backend: ops.KernelBackend) -> None:
    model, inputs = make(name)
    model = model.bfloat16().cuda()
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in on_gpu(inputs).items()}
    with ops.set_kernel_backend(backend):
        logits = logits_of(model, inputs)
        logits.float().square().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", FEW)
def test_nothing_waits_for_the_device_without_a_mask(name: str, backend: ops.KernelBackend) -> None:
    model, inputs = make(name)
    model, inputs = model.cuda(), on_gpu(inputs)
    with torch.inference_mode(), ops.set_kernel_backend(backend):
        assert synchronisations(lambda: encode(model, inputs)) == []


def test_a_mask_is_read_once() -> None:
    model, inputs = make("bert", "right")
    model, inputs = model.cuda(), on_gpu(inputs)
    with torch.inference_mode():
        places = synchronisations(lambda: encode(model, inputs))
    (own,) = [place for place in places if "transformers/" not in place]
    assert "conditional_adapters/modules/context.py" in own
