"""The Triton kernels against the operators in torch and against slow solvers.

They run on the GPU where there is one, otherwise in Triton's interpreter on the CPU.
"""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from conditional_adapters import ops
from conditional_adapters.errors import RoutingError
from conditional_adapters.modules.adapter import ACTIVATIONS, ParallelAdapter
from tests.helpers import draws
from tests.helpers.gradients import assert_gradients_close
from tests.helpers.light_branch import Forms, call
from tests.helpers.soft_topk_oracles import bisect_soft_topk

pytest.importorskip("triton", reason="Triton is not installed: pip install triton (Linux only)")

from conditional_adapters import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = (1, 2, 7, 64, 193)


def scores_with_ties(batch: int, seq: int) -> Tensor:
    scores = torch.randn(batch, seq)
    scores[1::2] = scores[1::2].round()  # also 0.0 and -0.0
    return scores.to(DEVICE)


def random_mask(batch: int, seq: int) -> Tensor:
    mask = torch.rand(batch, seq) < 0.7
    mask[0] = False
    return mask.to(DEVICE)


def positions(batch: int, k: int, seq: int) -> Tensor:
    return draws.positions(batch, k, seq).to(DEVICE)


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("seq", LENGTHS)
@pytest.mark.parametrize("is_masked", [False, True])
def test_soft_topk_agrees_with_bisection_and_its_gradient_with_the_closed_form(
    seq: int, epsilon: float, is_masked: bool
) -> None:
    scores = scores_with_ties(5, seq).requires_grad_()
    mask = random_mask(5, seq) if is_masked else None
    top_k = torch.tensor([1, 0, seq // 2, seq, max(seq // 8, 1)], device=DEVICE)
    arguments = {"top_k": top_k, "epsilon": epsilon, "token_mask": mask}
    with ops.set_kernel_backend("triton"):
        weights = ops.soft_topk(scores, **arguments)
    mask_on_cpu = None if mask is None else mask.cpu()
    expected = bisect_soft_topk(scores.cpu(), top_k.cpu(), epsilon, mask_on_cpu)
    torch.testing.assert_close(weights.cpu().double(), expected, atol=1e-6, rtol=0)
    grad = torch.randn(scores.shape).to(DEVICE)
    (actual,) = torch.autograd.grad(weights, scores, grad)
    (reference,) = torch.autograd.grad(ops.soft_topk(scores, **arguments), scores, grad)
    torch.testing.assert_close(actual, reference, atol=1e-6 / epsilon, rtol=1e-5)


def test_soft_topk_takes_batches_of_any_shape_and_half_precision() -> None:
    scores = scores_with_ties(6, 9).view(2, 3, 9).bfloat16()
    with ops.set_kernel_backend("triton"):
        weights = ops.soft_topk(scores, top_k=2, epsilon=0.1)
        nothing = ops.soft_topk(scores[:0], top_k=2, epsilon=0.1)
    expected = ops.soft_topk(scores, top_k=2, epsilon=0.1)
    torch.testing.assert_close(weights, expected)
    assert nothing.shape == (0, 3, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seq", LENGTHS)
def test_the_same_tokens_are_selected(seq: int, dtype: torch.dtype) -> None:
    scores, mask = scores_with_ties(4, seq).to(dtype), random_mask(4, seq)
    always = torch.zeros_like(mask)
    always[:, 0] = mask[:, 0]
    for top_k in {1, (seq + 1) // 2, seq}:
        budgets = torch.tensor([0, 1, top_k // 2, top_k], device=DEVICE)
        for extra in ({}, {"budgets": budgets, "token_mask": mask, "always": always}):
            expected = ops.select_tokens(scores, top_k=top_k, **extra)
            with ops.set_kernel_backend("triton"):
                actual = ops.select_tokens(scores, top_k=top_k, **extra)
            assert torch.equal(actual[0], expected[0])
            assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("epsilon", [0.02, 1.0])
@pytest.mark.parametrize("seq", LENGTHS)
def test_selecting_and_weighing_at_once_gives_what_both_give(seq: int, epsilon: float) -> None:
    scores = scores_with_ties(4, seq)
    for top_k in {1, (seq + 1) // 2, seq}:
        with ops.set_kernel_backend("triton"):
            indices, weights = ops.select_and_weigh(scores, top_k=top_k, epsilon=epsilon)
        assert torch.equal(indices, ops.select_tokens(scores, top_k=top_k)[0])
        expected = ops.soft_topk(scores, top_k=top_k, epsilon=epsilon).gather(-1, indices)
        torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("hidden", [1, 6, 1030])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_the_same_and_equal_for_equal_tokens(dtype: torch.dtype, hidden: int) -> None:
    states = torch.randn(3, 7, hidden, device=DEVICE).to(dtype)
    states[1, 4:] = states[0, :3]
    for weight in (torch.randn(hidden, device=DEVICE), torch.randn(3, 1, hidden, device=DEVICE)):
        expected = ops.score_tokens(states, weight)
        with torch.no_grad(), ops.set_kernel_backend("triton"):
            scores = ops.score_tokens(states, weight)
            nothing = ops.score_tokens(states[:, :0], weight)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-5)
        assert scores.dtype == torch.float32
        assert torch.equal(scores[1, 4:], scores[0, :3]) == (weight.dim() == 1)
        assert nothing.shape == (3, 0)


@pytest.mark.parametrize("rest", [(), (5,), (2, 3), (1030,)])
def test_gathered_tokens_and_their_gradient_are_the_same(rest: tuple[int, ...]) -> None:
    values = torch.randn(3, 9, *rest, device=DEVICE).requires_grad_()
    indices = positions(3, 4, 9)
    expected = ops.gather_tokens(values, indices)
    with ops.set_kernel_backend("triton"):
        actual = ops.gather_tokens(values, indices)
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    actual_grad, expected_grad = (torch.autograd.grad(x, values, grad) for x in (actual, expected))
    assert torch.equal(actual_grad[0], expected_grad[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("source", [1, 3])
@pytest.mark.parametrize("seq, k", [(1, 1), (9, 4), (40, 17), (150, 140)])
def test_pairs_of_chosen_tokens_are_the_same(
    seq: int, k: int, source: int, dtype: torch.dtype
) -> None:
    pairs = torch.randn(source, 5, seq, seq, dtype=dtype, device=DEVICE)
    pairs = pairs.transpose(2, 3)  # as a bias may come
    indices = positions(3, k, seq)
    expected = ops.gather_pairs(pairs, indices)
    with ops.set_kernel_backend("triton"):
        assert torch.equal(ops.gather_pairs(pairs, indices), expected)


def test_pairs_keep_their_gradient_and_masks_their_type() -> None:
    pairs = torch.randn(1, 2, 9, 9, device=DEVICE).requires_grad_()
    indices = positions(3, 4, 9)
    with ops.set_kernel_backend("triton"):
        chosen = ops.gather_pairs(pairs, indices)
        assert ops.gather_pairs(pairs > 0, indices).dtype == torch.bool
        assert ops.gather_pairs(pairs, indices, all_keys=True).shape == (3, 2, 4, 9)
    grad = torch.randn_like(chosen)
    expected = torch.autograd.grad(ops.gather_pairs(pairs, indices), pairs, grad)
    torch.testing.assert_close(torch.autograd.grad(chosen, pairs, grad), expected)


@pytest.mark.parametrize("hidden", [1, 5, 1030])
def test_weighted_updates_and_their_gradients_are_the_same(hidden: int) -> None:
    base = torch.randn(3, 9, hidden, device=DEVICE).requires_grad_()
    outputs, inputs = torch.randn(2, 3, 4, hidden, device=DEVICE).requires_grad_()
    weights = torch.rand(3, 4, device=DEVICE).requires_grad_()
    indices, grad = positions(3, 4, 9), torch.randn(3, 9, hidden, device=DEVICE)

    def run(backend: ops.KernelBackend) -> dict[str, Tensor]:
        with ops.set_kernel_backend(backend):
            out = ops.add_weighted_update_(base.clone(), indices, outputs, inputs, weights)
        wanted = {"base": base, "outputs": outputs, "inputs": inputs, "weights": weights}
        gradients = torch.autograd.grad(out, list(wanted.values()), grad)
        return {"result": out, **dict(zip(wanted, gradients, strict=True))}

    assert_gradients_close(run("triton"), run("torch"), atol=1e-5, rtol=1e-5)


def test_an_update_without_gradient_is_made_in_place_and_summed_in_float32() -> None:
    base, outputs, inputs = torch.randn(3, 2, 4, 6, device=DEVICE).bfloat16()
    weights, indices = torch.rand(2, 4, device=DEVICE), positions(2, 4, 4)
    expected = base.float() + weights[..., None] * (outputs.float() - inputs.float())
    with torch.no_grad(), ops.set_kernel_backend("triton"):
        out = ops.add_weighted_update_(base, indices, outputs, inputs, weights)
    assert out.data_ptr() == base.data_ptr()
    # One unit in the last place: the interpreter cuts digits off, GPUs round to nearest.
    torch.testing.assert_close(out.float(), expected, atol=0, rtol=2**-7)


@pytest.mark.parametrize(
    "operator, make_arguments",
    [
        ("soft_topk", lambda s, i: (s.requires_grad_(), torch.full((3,), 2).int().to(DEVICE), 0.1)),
        ("select", lambda s, i: (s, 2, torch.tensor([0, 1, 2]).int().to(DEVICE))),
        ("select_and_weigh", lambda s, i: (s, 2, 0.1)),
        ("score", lambda s, i: (torch.randn(3, 9, 4).to(DEVICE), torch.randn(4).to(DEVICE))),
        ("gather_pairs", lambda s, i: (torch.randn(1, 2, 9, 9).to(DEVICE), i)),
        ("gather_tokens", lambda s, i: (torch.randn(3, 9, 4).to(DEVICE).requires_grad_(), i)),
        (
            "add_weighted_update",
            lambda s, i: (
                torch.randn(3, 9, 4).to(DEVICE).requires_grad_(),
                i,
                torch.randn(3, 2, 4).to(DEVICE).requires_grad_(),
                torch.randn(3, 2, 4).to(DEVICE).requires_grad_(),
                torch.rand(3, 2).to(DEVICE).requires_grad_(),
            ),
        ),
        (
            "add_weighted_update_",
            lambda s, i: (*torch.randn(3, 3, 9, 4).to(DEVICE), torch.rand(3, 9).to(DEVICE)),
        ),
    ],
)
def test_torch_finds_the_operators_well_formed(operator: str, make_arguments) -> None:
    arguments = list(make_arguments(torch.randn(3, 9).to(DEVICE), positions(3, 2, 9)))
    if operator == "add_weighted_update_":
        arguments.insert(1, positions(3, 9, 9))
    torch.library.opcheck(getattr(torch.ops.conditional_adapters, operator), arguments)


def test_the_choice_holds_for_a_block_or_until_it_changes() -> None:
    backend = ops._backend
    assert backend.kernels is None
    with ops.set_kernel_backend("triton"):
        assert backend.kernels is kernels
        with ops.set_kernel_backend("torch"):
            assert backend.kernels is None
        assert backend.kernels is kernels
    assert backend.kernels is None


def test_tensors_out_of_reach_and_sequences_too_long_are_refused(monkeypatch) -> None:
    with ops.set_kernel_backend("triton"):
        with pytest.raises(RoutingError, match=r"has 65537 tokens, .* support up to 65536"):
            ops.select_tokens(torch.zeros(1, 65537, device=DEVICE), top_k=1)
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        with pytest.raises(RoutingError, match=r"on a GPU, got one on cpu.*'torch'"):
            ops.soft_topk(torch.zeros(1, 3), top_k=1, epsilon=0.1)


def test_double_precision_stays_in_torch() -> None:
    scores = torch.randn(2, 9, dtype=torch.float64, device=DEVICE)
    base = torch.randn(2, 9, 3, dtype=torch.float64, device=DEVICE)
    expected = ops.soft_topk(scores, top_k=3, epsilon=0.1)
    indices, _ = ops.select_tokens(scores, top_k=3)
    chosen, weights = ops.gather_tokens(base, indices), expected.gather(-1, indices)
    update = ops.add_weighted_update_(base.clone(), indices, chosen.sin(), chosen, weights)
    with ops.set_kernel_backend("triton"):
        assert torch.equal(ops.soft_topk(scores, top_k=3, epsilon=0.1), expected)
        assert torch.equal(ops.select_tokens(scores, top_k=3)[0], indices)
        again = ops.add_weighted_update_(base.clone(), indices, chosen.sin(), chosen, weights)
        assert torch.equal(again, update)


def norm_of(kind: str, hidden: int) -> nn.Module | None:
    """A norm with weights and bias that matter."""
    if kind == "none":
        return None
    norm = T5LayerNorm(hidden) if kind == "rms" else nn.LayerNorm(hidden, bias=kind == "layer")
    for parameter in norm.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return norm.to(DEVICE)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("kind", ["none", "rms", "layer", "layer without bias"])
@torch.no_grad()
def test_the_fused_light_branch_is_norm_scores_and_adapter(kind: str, activation: str) -> None:
    for batch, seq, hidden, dim in ((2, 9, 70, 5), (1, 1, 16, 16), (3, 20, 200, 33)):
        adapter = ParallelAdapter(hidden, dim, activation=activation).to(DEVICE)
        nn.init.normal_(adapter.up)
        norm, router = norm_of(kind, hidden), torch.randn(hidden, device=DEVICE)
        # A mean far from 0, where a sum of squares would lose the deviations.
        states = torch.randn(batch, seq, hidden, device=DEVICE) + 30.0
        residual = torch.randn(batch, seq, hidden, device=DEVICE)
        before = residual.clone()
        with ops.set_kernel_backend("triton"):
            result = call(adapter, norm, states, residual, router)
        normalised = states if norm is None else norm(states)
        updated, scores = result
        torch.testing.assert_close(updated, adapter(normalised, residual), atol=2e-4, rtol=1e-4)
        expected = ops.score_tokens(normalised, router)
        torch.testing.assert_close(scores, expected, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(residual, before, atol=0, rtol=0)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(
                DEVICE == "cpu", reason="Triton's interpreter multiplies bfloat16 as integers"
            ),
        ),
    ],
)
@pytest.mark.parametrize("kind", ["none", "rms", "layer"])
@torch.no_grad()
def test_the_light_branch_rounds_where_the_modules_do(kind: str, dtype: torch.dtype) -> None:
    hidden = 96
    adapter = ParallelAdapter(hidden, 8, activation="gelu").to(DEVICE)
    nn.init.normal_(adapter.up)
    norm = norm_of(kind, hidden)
    states = torch.randn(2, 17, hidden, device=DEVICE).to(dtype)
    if norm is not None:
        norm.to(dtype)
    with ops.set_kernel_backend("triton"):
        result = call(adapter, norm, states, states, torch.ones(hidden, device=DEVICE))
    normalised = states if norm is None else norm(states)
    updated, scores = result
    assert updated.dtype == dtype
    steps = torch.finfo(dtype).eps
    torch.testing.assert_close(updated, adapter(normalised, states), atol=4 * steps, rtol=2 * steps)
    expected = normalised.float().sum(-1)
    torch.testing.assert_close(scores, expected, atol=20 * steps, rtol=2 * steps)


@torch.no_grad()
def test_the_bottleneck_is_rounded_before_the_second_product() -> None:
    adapter = ParallelAdapter(16, 2).to(DEVICE).half()
    adapter.down.zero_()
    adapter.down[:, 0] = 1
    adapter.down[0, 1] = 1
    adapter.up[:] = torch.tensor([1000.0, -1000.0])
    states = torch.zeros(1, 2, 16, device=DEVICE, dtype=torch.float16)
    states[..., 0], states[..., 1] = 1, 2.0**-12  # 1 + 2^-12 is 1 in half precision
    with ops.set_kernel_backend("triton"):
        result = call(adapter, None, states, states)
    assert torch.equal(result[0], states)
    assert torch.equal(adapter(states, states), states)


def test_the_reference_form_runs_where_modules_do_more_than_the_kernel(monkeypatch) -> None:
    states, forms = torch.randn(1, 3, 32, device=DEVICE), Forms(monkeypatch)
    narrow, wide = (ParallelAdapter(32, dim).to(DEVICE) for dim in (8, 129))

    def form(adapter: ParallelAdapter, norm: nn.Module | None, states: Tensor = states) -> str:
        with torch.no_grad():
            return forms.of(adapter, norm, states, states)

    norm = norm_of("layer", 32)
    assert form(narrow, norm) == "reference"  # torch is the backend
    with ops.set_kernel_backend("triton"):
        assert form(narrow, norm) == "kernel"
        assert forms.of(narrow, norm, states, states) == "reference"  # a gradient may be needed
        assert form(wide, norm) == "reference"
        assert form(narrow, nn.GroupNorm(1, 3).to(DEVICE)) == "reference"
        assert form(narrow, nn.LayerNorm((3, 32)).to(DEVICE)) == "reference"
        assert (
            form(narrow, norm, states.bfloat16()) == "reference"
        )  # the norm has float32 parameters
        assert form(narrow, None, states.double()) == "reference"
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            assert form(narrow, norm) == "reference"
        for module in (norm, narrow):
            handle = module.register_forward_hook(lambda *_: None)
            assert form(narrow, norm) == "reference"
            handle.remove()
