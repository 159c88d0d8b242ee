"""`score_tokens` against a product in float64."""

import pytest
import torch

from conditional_adapters import ops

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
def test_scores_are_products_in_float32(dtype, grad, per_row) -> None:
    states = torch.randn(3, 7, 33).to(dtype)
    weight = torch.randn(3, 1, 33) if per_row else torch.randn(33)
    before = states.clone()
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        scores = ops.score_tokens(states, weight)
    assert scores.dtype == torch.float32
    expected = (states.double() * weight.double()).sum(-1)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(states, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad", [False, True])
def test_equal_tokens_have_equal_scores_wherever_they_stand(dtype, grad) -> None:
    states = torch.randn(96).to(dtype).expand(5, 131, 96).contiguous()
    with torch.set_grad_enabled(grad):
        scores = ops.score_tokens(states, torch.randn(96))
    assert scores.unique().numel() == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_does_not_change_the_scores(dtype) -> None:
    states = torch.randn(2, 9, 40).to(dtype)
    weight = torch.randn(40, requires_grad=True)
    scores = ops.score_tokens(states.requires_grad_(), weight)
    with torch.no_grad():
        assert torch.equal(ops.score_tokens(states, weight), scores)
    scores[0, 3].backward()
    torch.testing.assert_close(weight.grad, states[0, 3].detach().float())
    expected = torch.zeros(2, 9, 40)
    expected[0, 3] = weight.detach()
    torch.testing.assert_close(states.grad, expected.to(dtype))
