"""The public operator: its checks, the precision it computes in, and its compiled form."""

import inspect

import pytest
import torch

from conditional_adapters.errors import RoutingError
from conditional_adapters.ops import soft_topk

METHODS = ("exact", "iterative")


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_k": -3}, "top_k must be at least 1, got -3"),
        ({"epsilon": 0.0}, "epsilon must be above 0, got 0.0"),
        ({"epsilon": -0.5}, "epsilon must be above 0, got -0.5"),
        ({"epsilon": float("nan")}, "epsilon must be above 0, got nan"),
        ({"num_iterations": 0}, "num_iterations must be at least 1, got 0"),
        ({"epsilon_init": 0.0}, "epsilon_init must be above 0, got 0.0"),
        ({"epsilon_decay": 0.0}, "epsilon_decay must be above 0 and at most 1, got 0.0"),
        ({"epsilon_decay": 1.5}, "epsilon_decay must be above 0 and at most 1, got 1.5"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_number_outside_its_range_is_refused_with_its_value(
    method: str, settings: dict[str, float], message: str
) -> None:
    arguments = {"top_k": 2, "epsilon": 0.1, "method": method} | settings
    with pytest.raises(RoutingError, match=message):
        soft_topk(torch.zeros(1, 4), **arguments)


def test_an_unknown_method_is_refused_by_name() -> None:
    unchecked = inspect.unwrap(soft_topk)  # type checking would refuse it earlier
    with pytest.raises(RoutingError, match="method must be 'exact' or 'iterative', got 'newton'"):
        unchecked(torch.zeros(1, 4), top_k=2, epsilon=0.1, method="newton")


def test_the_exact_method_is_the_default() -> None:
    logits = torch.randn(3, 50)
    default = soft_topk(logits, top_k=9, epsilon=0.02)
    torch.testing.assert_close(default, soft_topk(logits, top_k=9, epsilon=0.02, method="exact"))
    iterative = soft_topk(logits, top_k=9, epsilon=0.02, method="iterative")
    assert (default - iterative).abs().max() > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_scores_are_computed_in_float32(dtype: torch.dtype, method: str) -> None:
    logits = (3 * torch.randn(4, 200)).to(dtype).requires_grad_()
    exact_input = logits.detach().float().requires_grad_()
    cotangent = torch.randn(4, 200).to(dtype)
    weights = soft_topk(logits, top_k=50, epsilon=0.1, method=method)
    expected = soft_topk(exact_input, top_k=50, epsilon=0.1, method=method)
    assert weights.dtype == dtype
    torch.testing.assert_close(weights, expected.to(dtype), atol=0, rtol=0)
    (grad,) = torch.autograd.grad(weights, logits, cotangent)
    (expected_grad,) = torch.autograd.grad(expected, exact_input, cotangent.float())
    torch.testing.assert_close(grad, expected_grad.to(dtype), atol=0, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_float64_scores_stay_float64(method: str) -> None:
    logits = torch.randn(2, 30, dtype=torch.float64)
    weights = soft_topk(logits, top_k=10, epsilon=1.0, method=method, num_iterations=100)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights.sum(-1), torch.full((2,), 10.0).double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_nothing(method: str) -> None:
    logits = torch.randn(4, 100)
    expected = soft_topk(logits, top_k=25, epsilon=0.1, method=method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = soft_topk(logits, top_k=25, epsilon=0.1, method=method)
    torch.testing.assert_close(weights, expected, atol=0, rtol=0)


@pytest.mark.compile
# torch 2.13 makes an instance of every autograd function it traces, and warns about doing so.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "method,is_padded,backend",
    [
        ("exact", True, "inductor"),  # generates code, which takes long: only once
        ("exact", False, "aot_eager"),
        ("iterative", True, "aot_eager"),
    ],
)
def test_the_compiled_operator_gives_equal_numbers(
    method: str, is_padded: bool, backend: str
) -> None:
    logits, cotangent = torch.randn(3, 40, requires_grad=True), torch.randn(3, 40)
    top_k, token_mask = 11, None
    if is_padded:
        top_k = torch.tensor([5, 0, 11])
        token_mask = torch.arange(40) < torch.tensor([[20], [7], [40]])

    def weigh(scores: torch.Tensor) -> torch.Tensor:
        return soft_topk(
            scores,
            top_k=top_k,
            epsilon=0.3,
            method=method,
            token_mask=token_mask,
            max_top_k=11,
            num_iterations=3,
        )

    compiled = torch.compile(weigh, fullgraph=True, backend=backend)
    expected, weights = weigh(logits), compiled(logits)
    torch.testing.assert_close(weights, expected)
    (grad,) = torch.autograd.grad(weights, logits, cotangent)
    (expected_grad,) = torch.autograd.grad(expected, logits, cotangent)
    torch.testing.assert_close(grad, expected_grad)
