"""`score_tokens` against a product in float64."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from conditional_adapters import ops
from conditional_adapters.ops import _chunks

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("per_example", [False, True])
def test_scores_are_products_in_float32(dtype, grad, per_example) -> None:
    states = torch.randn(3, 7, 33).to(dtype)
    weight = torch.randn(3, 1, 33) if per_example else torch.randn(33)
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
@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("per_example", [False, True])
def test_many_tokens_are_scored_part_by_part_to_the_same_bits(
    dtype, batch, per_example, monkeypatch
) -> None:
    states = torch.randn(batch, 11, 32).to(dtype)
    weight = torch.randn(batch, 1, 32) if per_example else torch.randn(32)
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 13 * 32)  # less than 20 rows of a token
    with torch.no_grad():
        scores = ops.score_tokens(states, weight)
    assert torch.equal(scores, (states.float() * weight).sum(-1))


@torch.no_grad()
def test_no_temporary_is_as_large_as_the_states() -> None:
    states, weight = torch.randn(4, 4096, 768), torch.randn(768)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        ops.score_tokens(states, weight)
    allocated = [event.cpu_memory_usage for event in profiled.events()]
    assert 0 < max(allocated) <= states.nbytes / 8


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_nothing_has_no_scores(shape) -> None:
    with torch.no_grad():
        assert ops.score_tokens(torch.empty(shape), torch.ones(8)).shape == shape[:2]


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
