"""Whole models with the Triton kernels, values and gradients, and the kernels as machine code."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import conditional_adapters as ca
from conditional_adapters import ops
from conditional_adapters.model.attachment import adapter_parameters
from conditional_adapters.model.structure import find_sites
from tests.helpers import ROOT
from tests.helpers.gradients import assert_gradients_close, gradients_of
from tests.helpers.light_branch import Forms
from tests.helpers.tiny_models import TINY_MODELS

pytest.importorskip("triton", reason="Triton is not installed: pip install triton (Linux only)")

# Models whose norms are not known to the kernel.
WITHOUT_FORMULA = {"t5gemma"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(name: str, padding: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    tiny = TINY_MODELS[name]
    model = tiny.build(tiny.attention)
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=2, adapter_dim=5))
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, "default"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = tiny.make_inputs(padding)
    return model.to(DEVICE), {name: value.to(DEVICE) for name, value in inputs.items()}


@pytest.mark.parametrize(
    "name, padding",
    [("bert", "none"), ("bert", "right"), ("t5", "right"), ("vit", "none"), ("modernbert", "left")],
)
def test_a_model_gives_the_same_answers_and_gradients(name: str, padding: str) -> None:
    model, inputs = make(name, padding)

    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            inferred = model(**inputs).logits
        logits = model(**inputs).logits
        model.zero_grad()
        logits.square().sum().backward()
        gradients = gradients_of(adapter_parameters(model, "default"))
        return {"inferred": inferred, "logits": logits, **gradients}

    expected = run()
    with ops.set_kernel_backend("triton"):
        found = run()
    assert len(expected) > 4
    assert_gradients_close(found, expected, atol=1e-5, rtol=1e-4, is_scaled=True)


@pytest.mark.parametrize("name", TINY_MODELS)
@torch.no_grad()
def test_every_norm_with_a_formula_is_that_norm(name: str, monkeypatch) -> None:
    model, _ = make(name, "none")
    forms = Forms(monkeypatch)
    for layer in find_sites(model).encoder_layers:
        part, norm = layer.coda_part("default"), layer.coda_norm
        states = torch.randn(1, 3, part.adapter.down.shape[1], device=DEVICE)
        with ops.set_kernel_backend("triton"):
            forms.called.clear()
            updated, _ = part.adapt_and_route(norm, states, states)
        assert bool(forms.called) == (name in WITHOUT_FORMULA)
        expected = part.adapter(states if norm is None else norm(states), states)
        torch.testing.assert_close(updated, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hooks_on_norm_and_adapter_are_called_with_kernels(monkeypatch) -> None:
    model, inputs = make("vit", "none")
    layer, forms = find_sites(model).encoder_layers[0], Forms(monkeypatch)
    with ops.set_kernel_backend("triton"):
        expected = model(**inputs).logits
        assert not forms.called
        seen = []
        norm, adapter = layer.coda_norm, layer.coda_part("default").adapter
        handles = [
            norm.register_forward_hook(lambda *args: seen.append("norm")),
            adapter.register_forward_hook(lambda *args: seen.append("adapter")),
        ]
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
        # The frozen layer calls its norm as well, on the selected tokens.
        assert seen == ["norm", "adapter", "norm"]
        handles[0].remove()
        adapter.register_forward_hook(lambda module, args, output: output.square())
        assert not torch.allclose(model(**inputs).logits, expected, atol=1e-2)


@pytest.mark.compile  # the shape checks would come first
def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ca.RoutingError, match="'torch' or 'triton', got 'cuda'"):
        ops.set_kernel_backend("cuda")


@pytest.mark.compile
def test_a_model_compiles_as_one_graph() -> None:
    model, inputs = make("bert", "none")
    with torch.no_grad():
        expected = model(**inputs).logits
        with ops.set_kernel_backend("triton"):
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
            actual = compiled(**inputs).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_every_kernel_compiles_to_machine_code_without_a_gpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "tests/helpers/compile_kernels.py")
    command = [sys.executable, script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split()
    assert len(lines) == len(set(lines)) == 11
