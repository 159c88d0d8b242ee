"""Linear maps with prepacked weights against a matrix product in float64."""

import pytest
import torch

from conditional_adapters.prepacking.operators import can_prepack, prepack_weight, prepacked_linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 7, 5), (0, 5), (2, 0, 5), (300, 5)])
@pytest.mark.parametrize("out", [1, 3, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_it_is_the_product_with_the_transposed_weight(shape, out, has_bias) -> None:
    states, weight = torch.randn(shape), torch.randn(out, 5)
    bias = torch.randn(out) if has_bias else None
    expected = (states.double().unsqueeze(-2) * weight.double()).sum(-1)
    if bias is not None:
        expected = expected + bias.double()
    found = prepacked_linear(states, prepack_weight(weight), bias)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 7, 5), (0, 5), (2, 0, 5), (300, 5)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_residual_is_added_and_stays_as_it_was(shape, has_bias) -> None:
    states, weight, residual = torch.randn(shape), torch.randn(3, 5), torch.randn(*shape[:-1], 3)
    bias, before = torch.randn(3) if has_bias else None, residual.clone()
    expected = (states.double().unsqueeze(-2) * weight.double()).sum(-1) + residual.double()
    if bias is not None:
        expected = expected + bias.double()
    found = prepacked_linear(states, prepack_weight(weight), bias, residual)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(residual, before)


def test_a_residual_of_any_memory_layout() -> None:
    states, weight = torch.randn(4, 9, 6), torch.randn(8, 6)
    residual = torch.randn(9, 4, 8).transpose(0, 1)
    found = prepacked_linear(states, prepack_weight(weight), None, residual)
    torch.testing.assert_close(found, states @ weight.t() + residual, atol=1e-5, rtol=1e-5)


def test_states_and_weights_of_any_memory_layout() -> None:
    states, weight = torch.randn(4, 9, 6)[:, ::2].mT.mT, torch.randn(6, 8).t()
    assert not weight.is_contiguous()
    found = prepacked_linear(states, prepack_weight(weight), None)
    torch.testing.assert_close(found, states @ weight.t(), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(
    not can_prepack(torch.ones(2, 2, dtype=torch.bfloat16)), reason="no bfloat16 on this processor"
)
def test_bfloat16_is_rounded_once() -> None:
    states, weight = torch.randn(9, 33).bfloat16(), torch.randn(17, 33).bfloat16()
    found = prepacked_linear(states, prepack_weight(weight), None)
    expected = states.double() @ weight.double().t()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=2**-8)


def test_it_refuses_what_it_cannot_hold() -> None:
    assert can_prepack(torch.ones(2, 3))
    assert can_prepack(torch.nn.Parameter(torch.ones(2, 3)))
    with torch.inference_mode():
        unversioned = torch.ones(2, 3)
    for weight in (
        torch.ones(2),
        torch.ones(2, 0),
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.float16),
        torch.ones(2, 3, device="meta"),
        torch.ones(2, 3).to_sparse(),
        unversioned,
    ):
        assert not can_prepack(weight)
