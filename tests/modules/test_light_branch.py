"""Long batches on a CPU: the light branch part by part, against its modules on all tokens."""

import sys

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaRMSNorm

from conditional_adapters import ops
from conditional_adapters.modules.adapter import ParallelAdapter
from conditional_adapters.modules.layer_adapter import LayerAdapter
from conditional_adapters.modules.light_branch import light_branch
from conditional_adapters.ops import _parts
from tests.helpers.conditional_models import make_tiny, states_of
from tests.helpers.tiny_models import TINY_MODELS

HIDDEN = 24
NORMS = {
    "layer": lambda: nn.LayerNorm(HIDDEN),
    "layer without bias": lambda: nn.LayerNorm(HIDDEN, bias=False),
    "root mean square": lambda: T5LayerNorm(HIDDEN),
}


@pytest.fixture(autouse=True)
def short_parts(monkeypatch) -> None:
    monkeypatch.setattr(_parts, "_ELEMENTS", 5 * HIDDEN)


def make(kind: str = "layer", dtype: torch.dtype = torch.float32):
    adapter = ParallelAdapter(HIDDEN, 7, activation="gelu")
    nn.init.normal_(adapter.up)
    norm = NORMS[kind]()
    for parameter in norm.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return adapter.to(dtype), norm.to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 13), (3, 11), (9, 2)])
def test_parts_make_what_the_modules_make_of_all_tokens(kind, dtype, shape) -> None:
    adapter, norm = make(kind, dtype)
    states = torch.randn(*shape, 2 * HIDDEN, dtype=dtype)[..., ::2]  # not contiguous
    residual, router = torch.randn(*shape, HIDDEN, dtype=dtype), torch.randn(HIDDEN)
    before = residual.clone()
    result = light_branch(adapter, norm, states, residual, router)
    assert result is not None
    updated, scores = result
    normalised = norm(states)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(updated, adapter(normalised, residual), atol=8 * step, rtol=4 * step)
    is_rounded = kind == "root mean square" and dtype == torch.bfloat16  # by the module alone
    tolerance = {"atol": 4 * step * router.norm().item(), "rtol": 0} if is_rounded else {}
    torch.testing.assert_close(scores, ops.score_tokens(normalised, router), **tolerance)
    assert torch.equal(residual, before)
    alone = light_branch(adapter, norm, states, residual)
    assert alone is not None
    assert torch.equal(alone[0], updated)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dividing_after_the_products_is_no_further_from_the_exact_result(dtype) -> None:
    adapter, norm = make("root mean square", dtype)
    states = 30 * torch.randn(9, 40, HIDDEN)
    states[..., 3] *= 100  # as in pretrained models, a few elements are much larger
    states[0, 0] = 0
    states, residual = states.to(dtype), torch.randn(9, 40, HIDDEN).to(dtype)
    router = torch.randn(HIDDEN)

    # By hand, in float64.
    wide = states.double()
    normalised = wide / (wide.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    normalised = normalised * norm.weight.double()
    inner = nn.functional.gelu(normalised @ adapter.down.double().T)
    exact = residual.double() + inner @ adapter.up.double().T, normalised @ router.double()

    by_parts = light_branch(adapter, norm, states, residual, router)
    assert by_parts is not None
    by_modules = adapter(norm(states), residual), ops.score_tokens(norm(states), router)
    for ours, theirs, right in zip(by_parts, by_modules, exact, strict=True):
        error, allowed = ((result - right).square().mean().sqrt() for result in (ours, theirs))
        assert error <= 1.25 * allowed
        assert torch.equal(ours[0, 0], theirs[0, 0])  # a token of zeros


@torch.no_grad()
def test_products_in_half_precision_do_not_overflow() -> None:
    adapter, norm = make("root mean square", torch.float16)
    states = torch.full((3, 11, HIDDEN), 6e4, dtype=torch.float16)
    result = light_branch(adapter, norm, states, torch.zeros_like(states), torch.ones(HIDDEN))
    assert result is not None
    assert all(part.isfinite().all() for part in result)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_tokens_have_equal_scores_in_every_part(dtype) -> None:
    adapter, norm = make("root mean square", dtype)
    states = torch.randn(HIDDEN).to(dtype).expand(7, 13, HIDDEN)
    result = light_branch(adapter, norm, states, states, torch.randn(HIDDEN))
    assert result is not None
    assert len(result[1].unique()) == 1


@torch.no_grad()
def test_no_module_sees_more_than_a_part(monkeypatch) -> None:
    lengths: dict[str, list[int]] = {"norm": [], "adapter": []}
    adapter, norm = make()

    def counting(module: nn.Module, name: str):
        forward = module.forward

        def count(states, *args):
            lengths[name].append(states.shape[0] * states.shape[1])
            return forward(states, *args)

        monkeypatch.setattr(module, "forward", count)

    counting(adapter, "adapter")
    counting(norm, "norm")
    states = torch.randn(3, 11, HIDDEN)
    light_branch(adapter, norm, states, states)
    for seen in lengths.values():
        assert sum(seen) == 33
        assert max(seen) <= 5


def test_all_tokens_go_at_once_where_that_is_wanted(monkeypatch) -> None:
    adapter, norm = make()
    states = torch.randn(2, 9, HIDDEN)

    def goes_by_parts(norm: nn.Module | None = norm, states: torch.Tensor = states) -> bool:
        return light_branch(adapter, norm, states, states) is not None

    assert not goes_by_parts()  # a gradient may be wanted
    with torch.no_grad():
        assert goes_by_parts()
        assert not goes_by_parts(states=states[:1, :4])  # one part
        assert not goes_by_parts(states=states.bfloat16())  # the norm would refuse
        assert not goes_by_parts(norm=None)  # nothing is made before the product
        assert not goes_by_parts(norm=nn.Identity())
        assert not goes_by_parts(norm=nn.GroupNorm(1, HIDDEN))  # looks at other tokens
        assert not goes_by_parts(norm=T5GemmaRMSNorm(HIDDEN))
        with torch.autocast("cpu", torch.bfloat16):
            assert not goes_by_parts()
        for module in (adapter, norm):
            for register in (module.register_forward_hook, module.register_forward_pre_hook):
                handle = register(lambda *_: None)  # waits for all tokens
                assert not goes_by_parts()
                handle.remove()
        assert goes_by_parts()
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not goes_by_parts()


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "vit", "whisper"])
def test_every_layer_of_a_model_that_begins_with_norms_goes_by_parts(name, monkeypatch) -> None:
    module = sys.modules[light_branch.__module__]
    numbers, by_parts = [], module._by_parts

    def counted(number, *args):
        numbers.append(number)
        return by_parts(number, *args)

    monkeypatch.setattr(module, "_by_parts", counted)
    model, inputs = make_tiny(name)
    states_of(model, inputs)
    assert len(numbers) == sum(isinstance(part, LayerAdapter) for part in model.modules())
    assert min(numbers) > 1


@torch.no_grad()
@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_first_layer_of_every_model_makes_the_same(name, monkeypatch) -> None:
    # Later ones may choose between equal tokens, which small products round by their place.
    model, inputs = make_tiny(name)
    by_parts = states_of(model, inputs)[1]
    monkeypatch.setattr(_parts, "_ELEMENTS", 2**20)
    torch.testing.assert_close(by_parts, states_of(model, inputs)[1], atol=1e-5, rtol=1e-5)
