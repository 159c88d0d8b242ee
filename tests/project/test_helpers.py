"""The assertions about gradients name every parameter that is wrong."""

import pytest
import torch
from torch import nn

from tests.helpers.gradients import (
    assert_gradients_close,
    assert_only_trained,
    assert_trained,
    gradients_of,
)


def test_every_gradient_that_differs_is_named() -> None:
    expected = {name: torch.ones(2) for name in ("same", "far", "other type", "missing")}
    found = {"same": torch.ones(2), "far": torch.zeros(2), "other type": torch.ones(2).double()}
    with pytest.raises(AssertionError) as failure:
        assert_gradients_close(found | {"new": torch.ones(2)}, expected)
    message = str(failure.value)
    assert "missing: missing" in message
    assert "new: not expected" in message
    assert "far: Tensor-likes are not close" in message
    assert "other type: The values for attribute 'dtype' do not match" in message
    assert "same" not in message


def test_scaled_gradients_are_compared_relative_to_the_largest_element() -> None:
    expected = {"a": torch.tensor([1000.0, 1.0])}
    found = {"a": torch.tensor([1000.0, 1.005])}
    assert_gradients_close(found, expected, atol=1e-5, rtol=0, is_scaled=True)
    with pytest.raises(AssertionError, match="a: Tensor-likes are not close"):
        assert_gradients_close(found, expected, atol=1e-5, rtol=0)


def test_parameters_that_are_not_trained_or_not_frozen_are_named() -> None:
    model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("a", "b", "c")})
    (model["a"](torch.ones(1)) + 0 * model["b"](torch.ones(1))).backward()
    assert gradients_of(model.named_parameters()).keys() == {"a.weight", "b.weight"}
    with pytest.raises(AssertionError, match=r"no gradient: \['b.weight', 'c.weight'\]"):
        assert_trained(model.named_parameters())
    with pytest.raises(AssertionError, match=r"frozen parameters: \['b.weight'\]"):
        assert_only_trained(model.named_parameters(), {"a.weight"})
