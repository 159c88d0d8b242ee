"""Long batches on a CPU: the light branch in chunks, against its modules on all tokens."""

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaRMSNorm

from conditional_adapters import ops
from conditional_adapters.modules.adapter import LayerAdapter, ParallelAdapter
from conditional_adapters.ops import _chunks
from tests.helpers.conditional_models import make_tiny, states_of
from tests.helpers.light_branch import Forms, call
from tests.helpers.tiny_models import TINY_MODELS

HIDDEN = 24
NORMS = {
    "layer": lambda: nn.LayerNorm(HIDDEN),
    "layer without bias": lambda: nn.LayerNorm(HIDDEN, bias=False),
    "root mean square": lambda: T5LayerNorm(HIDDEN),
}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch) -> None:
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 5 * HIDDEN)


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
def test_chunks_give_the_output_of_the_modules_on_all_tokens(kind, dtype, shape) -> None:
    adapter, norm = make(kind, dtype)
    states = torch.randn(*shape, 2 * HIDDEN, dtype=dtype)[..., ::2]  # not contiguous
    residual, router = torch.randn(*shape, HIDDEN, dtype=dtype), torch.randn(HIDDEN)
    before = residual.clone()
    result = call(adapter, norm, states, residual, router)
    updated, scores = result
    normalised = norm(states)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(updated, adapter(normalised, residual), atol=8 * step, rtol=4 * step)
    is_rounded = kind == "root mean square" and dtype == torch.bfloat16  # by the module alone
    tolerance = {"atol": 4 * step * router.norm().item(), "rtol": 0} if is_rounded else {}
    torch.testing.assert_close(scores, ops.score_tokens(normalised, router), **tolerance)
    assert torch.equal(residual, before)
    alone = call(adapter, norm, states, residual)
    assert torch.equal(alone[0], updated)
    assert alone[1] is None


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

    in_chunks = call(adapter, norm, states, residual, router)
    by_modules = adapter(norm(states), residual), ops.score_tokens(norm(states), router)
    for ours, theirs, right in zip(in_chunks, by_modules, exact, strict=True):
        error, allowed = ((result - right).square().mean().sqrt() for result in (ours, theirs))
        assert error <= 1.25 * allowed
        assert torch.equal(ours[0, 0], theirs[0, 0])  # a token of zeros


@torch.no_grad()
def test_products_in_half_precision_do_not_overflow() -> None:
    adapter, norm = make("root mean square", torch.float16)
    states = torch.full((3, 11, HIDDEN), 6e4, dtype=torch.float16)
    result = call(adapter, norm, states, torch.zeros_like(states), torch.ones(HIDDEN))
    assert all(output.isfinite().all() for output in result)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_tokens_have_equal_scores_in_every_chunk(dtype) -> None:
    adapter, norm = make("root mean square", dtype)
    states = torch.randn(HIDDEN).to(dtype).expand(7, 13, HIDDEN)
    result = call(adapter, norm, states, states, torch.randn(HIDDEN))
    assert len(result[1].unique()) == 1


@torch.no_grad()
def test_no_module_is_called_on_more_than_a_chunk(monkeypatch) -> None:
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
    call(adapter, norm, states, states)
    for seen in lengths.values():
        assert sum(seen) == 33
        assert max(seen) <= 5


def test_the_reference_form_runs_where_it_has_to(monkeypatch) -> None:
    adapter, norm = make()
    states, forms = torch.randn(2, 9, HIDDEN), Forms(monkeypatch)

    def form(norm: nn.Module | None = norm, states: torch.Tensor = states) -> str:
        return forms.of(adapter, norm, states, states)

    assert form() == "reference"  # a gradient may be needed
    with torch.no_grad():
        assert form() == "chunked"
        assert form(states=states[:1, :4]) == "reference"  # one chunk
        assert form(norm=None) == "reference"  # there is no intermediate result
        assert form(norm=nn.Identity()) == "reference"
        assert form(norm=nn.GroupNorm(1, 9)) == "reference"  # depends on other tokens
        assert form(norm=T5GemmaRMSNorm(HIDDEN)) == "reference"
        with torch.autocast("cpu", torch.bfloat16):
            assert form() == "reference"
        for module in (adapter, norm):
            for register in (module.register_forward_hook, module.register_forward_pre_hook):
                handle = register(lambda *_: None)  # expects all tokens
                assert form() == "reference"
                handle.remove()
        assert form() == "chunked"
        assert form(states=states.bfloat16()) == "reference"  # the norm has float32 parameters
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert form() == "reference"


@torch.no_grad()
@pytest.mark.parametrize("is_long", [False, True])
def test_hooks_on_norm_and_adapter_are_called_once_on_all_tokens(is_long, monkeypatch) -> None:
    if not is_long:
        monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 2**20)
    adapter, norm = make()
    states = torch.randn(2, 9, HIDDEN)
    expected = call(adapter, norm, states, states, torch.ones(HIDDEN))
    seen = []
    norm.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    adapter.register_forward_hook(lambda module, args, output: 2 * output)
    updated, scores = call(adapter, norm, states, states, torch.ones(HIDDEN))
    assert seen == [states.shape]
    torch.testing.assert_close(updated, 2 * expected[0])
    torch.testing.assert_close(scores, expected[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "vit", "whisper"])
def test_every_layer_of_a_pre_norm_model_is_chunked(name, monkeypatch) -> None:
    forms = Forms(monkeypatch)
    model, inputs = make_tiny(name)
    states_of(model, inputs)
    numbers = forms.num_chunks
    assert len(numbers) == sum(isinstance(module, LayerAdapter) for module in model.modules())
    assert min(numbers) > 1


@torch.no_grad()
@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_first_layer_of_every_model_gives_the_same(name, monkeypatch) -> None:
    # Later ones may choose between equal tokens, which small products round by their position.
    model, inputs = make_tiny(name)
    in_chunks = states_of(model, inputs)[1]
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 2**20)
    torch.testing.assert_close(in_chunks, states_of(model, inputs)[1], atol=1e-5, rtol=1e-5)
