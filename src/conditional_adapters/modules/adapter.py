"""The light branch: a bottleneck that every token passes."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .rows import AdapterRows

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "identity": lambda states: states,
}


class ParallelAdapter(nn.Module):
    """A two-layer bottleneck beside a frozen layer: `A(U) = act(U W_down) W_up`.

    The up-projection starts at zero, so a fresh adapter changes nothing.

    Args:
        hidden_size: Width of the states.
        adapter_dim: Width of the bottleneck.
        activation: A key of `ACTIVATIONS`.
        dtype: Type of the parameters. Computation follows the states.
        device: Where the parameters live.

    Source:
        He et al., arXiv:2110.04366 (parallel adapter); the zero start is our choice.
    """

    def __init__(
        self,
        hidden_size: int,
        adapter_dim: int,
        *,
        activation: str = "relu",
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down = nn.Parameter(torch.empty(adapter_dim, hidden_size, dtype=dtype, device=device))
        self.up = nn.Parameter(torch.zeros(hidden_size, adapter_dim, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(
        self,
        states: Float[Tensor, "batch seq hidden"],
        residual: Float[Tensor, "batch seq hidden"],
    ) -> Float[Tensor, "batch seq hidden"]:
        """Add the adapter's update of each token to `residual`.

        Args:
            states: What the adapter reads.
            residual: What it adds to. Not changed.

        Returns:
            `residual + A(states)`, a new tensor in the dtype of `residual`.
        """
        inner = ACTIVATIONS[self.activation](functional.linear(states, self.down.to(states.dtype)))
        up = self.up.to(states.dtype)
        # One pass over memory instead of two. Autocast would round the residual stream.
        if inner.dtype == residual.dtype and not torch.is_autocast_enabled(states.device.type):
            rows = torch.addmm(residual.flatten(0, -2), inner.flatten(0, -2), up.t())
            return rows.view_as(residual)
        return (residual + functional.linear(inner, up)).to(residual.dtype)

    def extra_repr(self) -> str:
        """Describe the sizes for `print(model)`."""
        dim, hidden = self.down.shape
        return f"hidden_size={hidden}, adapter_dim={dim}, activation={self.activation}"


def adapt_rows(
    adapters: Sequence[ParallelAdapter],
    rows: AdapterRows,
    states: Float[Tensor, "batch seq hidden"],
    residual: Float[Tensor, "batch seq hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """Add to each row of `residual` the update of its own adapter.

    Args:
        adapters: One for each name of `rows`, of one width and activation.
        rows: Whose row is whose.
        states: What the adapters read.
        residual: What they add to. Not changed.

    Returns:
        What each adapter's forward gives for its rows.
    """
    if len(adapters) == 1:
        updated: Tensor = adapters[0](states, residual)
        return updated
    down = rows.spread([adapter.down for adapter in adapters]).to(states.dtype)
    up = rows.spread([adapter.up for adapter in adapters]).to(states.dtype)
    inner = ACTIVATIONS[adapters[0].activation](torch.bmm(states, down.mT))
    if inner.dtype == residual.dtype and not torch.is_autocast_enabled(states.device.type):
        return torch.baddbmm(residual, inner, up.mT)
    return (residual + torch.bmm(inner, up.mT)).to(residual.dtype)
