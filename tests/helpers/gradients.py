"""Gradients under the names of their tensors, and assertions that name each one that is wrong."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor


def gradients_of(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of the gradients of those parameters that have one."""
    return {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def assert_gradients_close(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    atol: float | None = None,
    rtol: float | None = None,
    is_scaled: bool = False,
) -> None:
    """Compare as `torch.testing.assert_close` does, and name all that differ.

    With `is_scaled`, both are divided by the largest element of the expected one if it is above 1.
    """
    problems = [f"{name}: missing" for name in expected.keys() - found.keys()]
    problems += [f"{name}: not expected" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        scale = expected[name].abs().max().clamp(min=1) if is_scaled else 1
        try:
            torch.testing.assert_close(
                found[name] / scale, expected[name] / scale, atol=atol, rtol=rtol
            )
        except AssertionError as error:
            problems.append(f"{name}: {error}")
    assert not problems, "\n\n".join(sorted(problems))


def assert_gradients_agree(
    ours: Tensor,
    expected: Tensor,
    *,
    atol: float | None = 1e-14,
    rtol: float | None = 0,
    **inputs: Tensor,
) -> None:
    """Compare the gradients of two results with respect to the inputs, for one random cotangent."""
    cotangent, tensors = torch.randn_like(expected), list(inputs.values())
    assert_gradients_close(
        dict(zip(inputs, torch.autograd.grad(ours, tensors, cotangent), strict=True)),
        dict(zip(inputs, torch.autograd.grad(expected, tensors, cotangent), strict=True)),
        atol=atol,
        rtol=rtol,
    )


def assert_trained(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Check that there are parameters, and that each has a gradient other than zero."""
    reached = {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in parameters}
    assert reached
    without = [name for name, is_reached in reached.items() if not is_reached]
    assert not without, f"no gradient: {without}"


def assert_only_trained(parameters: Iterable[tuple[str, Tensor]], trained: Collection[str]) -> None:
    """Check that the parameters of these names have gradients other than zero, and others none."""
    parameters = dict(parameters)
    assert_trained((name, parameters[name]) for name in trained)
    frozen = parameters.keys() - set(trained)
    moved = sorted(name for name in frozen if parameters[name].grad is not None)
    assert not moved, f"gradients of frozen parameters: {moved}"
