"""Which adapter answers for which row of a batch (docs/decisions/0008).

Layers get an `AdapterRows` as an argument of their forward pass. Norms and heads are called by code
that knows nothing of it; they find it in a `RowScope`, which a layer fills from its own argument
while it runs, and the model while norms and heads outside of layers run. A layer that gradient
checkpointing computes again therefore computes with the adapters that it had.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ..errors import RoutingError

# The keyword argument that carries `AdapterRows` to a layer.
ROWS_ARGUMENT = "coda_rows"


class AdapterRows(NamedTuple):
    """The adapters of a batch, and the rows of each.

    A named tuple, not a dataclass, because the tools that move arguments between devices know it.
    """

    names: tuple[str | None, ...]  # distinct; None: the pretrained model without an adapter
    members: tuple[Int[Tensor, " rows"], ...]  # the rows of each name
    places: Int[Tensor, " batch"]  # where the name of each row is in `names`
    factors: tuple[float | None, ...] = ()  # override the layers' own (elastic training)

    def check(self, states: Shaped[Tensor, "..."], what: str) -> None:
        """Refuse a tensor that does not have one row per row of the batch.

        Args:
            states: The tensor.
            what: What reads it.

        Raises:
            RoutingError: If it is another number.
        """
        if states.dim() == 0 or len(states) != len(self.places):
            raise RoutingError(
                f"adapter_names has {len(self.places)} entries, but {what} got a tensor of shape "
                f"{list(states.shape)}. Give one name (or None) for each row of the batch. If you "
                "did, this module does not see the rows, and adapters that train it cannot share "
                "a batch: call set_adapter(model, name) and run the rows of each adapter."
            )

    def spread(self, values: Sequence[Tensor]) -> Tensor:
        """Return `[batch, ...]`: for each row, the value of its adapter."""
        stacked = torch.stack([*values])
        # With a row for each adapter, the rows are in the order of the names already.
        return stacked if len(values) == len(self.places) else stacked[self.places]

    def take(self, positions: Sequence[int]) -> "AdapterRows":
        """Return the part of some names; its rows are numbered in the order of the names."""
        sizes = [len(self.members[position]) for position in positions]
        members = torch.arange(sum(sizes), device=self.places.device).tensor_split(
            list(accumulate(sizes))[:-1]
        )
        return AdapterRows(
            tuple(self.names[position] for position in positions),
            members,
            torch.cat([torch.full_like(rows, place) for place, rows in enumerate(members)]),
            tuple(self.factors[position] for position in positions) if self.factors else (),
        )


def adapter_rows(
    names: Sequence[str | None],
    *,
    device: torch.device,
    factors: Mapping[str | None, float | None] | None = None,
) -> AdapterRows:
    """Sort the rows of a batch by adapter.

    Args:
        names: The adapter of each row.
        device: Where the model runs.
        factors: Reduction factors by adapter, where they are not the layers' own.

    Returns:
        Distinct names in the order in which they occur first, and the rows of each.
    """
    rows: dict[str | None, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    places = {name: place for place, name in enumerate(rows)}
    return AdapterRows(
        tuple(rows),
        tuple(torch.tensor(members, device=device) for members in rows.values()),
        torch.tensor([places[name] for name in names], device=device),
        tuple((factors or {}).get(name) for name in rows),
    )


def run_by_group(
    rows: AdapterRows,
    key: Callable[[str | None], Hashable],
    function: Callable[..., Any],
    *tensors: Tensor | None,
) -> Any:  # noqa: ANN401
    """Run a function once for each group of rows whose adapters have the same key.

    Args:
        rows: The adapters of the batch.
        key: What adapters must have in common to be computed together.
        function: `function(rows, *tensors)` for the rows of one group; returns a tensor or a tuple
            of tensors with these rows.
        *tensors: What it reads, `[batch, ...]`, or None.

    Returns:
        What the function returns, for all rows in their order.
    """
    groups: dict[Hashable, list[int]] = {}
    for position, name in enumerate(rows.names):
        groups.setdefault(key(name), []).append(position)
    if len(groups) == 1:
        return function(rows, *tensors)
    device = next(tensor.device for tensor in tensors if tensor is not None)
    chosen = [
        torch.cat([rows.members[position] for position in positions]).to(device)
        for positions in groups.values()
    ]
    outputs = [
        function(
            rows.take(positions),
            *(None if tensor is None else tensor.index_select(0, part) for tensor in tensors),
        )
        for positions, part in zip(groups.values(), chosen, strict=True)
    ]
    back = torch.cat(chosen).argsort()
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs).index_select(0, back)
    return tuple(torch.cat(parts).index_select(0, back) for parts in zip(*outputs, strict=True))


class RowScope(threading.local):
    """The rows of the calls that this thread is in, the innermost last; one scope per model.

    A list, and not an attribute that is set, because compiled code does not write attributes of
    what belongs to a thread.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[object, AdapterRows]] = []

    @property
    def rows(self) -> AdapterRows | None:
        """The rows of the innermost call; None where all rows have the active adapter."""
        return self.calls[-1][1] if self.calls else None

    @contextmanager
    def entered(self, rows: AdapterRows) -> Iterator[None]:
        """Let norms and heads see `rows` while the context is open."""
        self.enter(None, rows)
        try:
            yield
        finally:
            self.calls.pop()

    def enter(self, owner: object, rows: AdapterRows) -> None:
        """Let norms and heads see `rows` until `leave` is called with the same owner."""
        self.calls.append((owner, rows))

    def leave(self, owner: object) -> None:
        """End a call, if this owner has begun the innermost one."""
        if self.calls and self.calls[-1][0] is owner:
            self.calls.pop()

    def __reduce__(self) -> tuple[type["RowScope"], tuple[()]]:
        return RowScope, ()  # a copy is in no call
