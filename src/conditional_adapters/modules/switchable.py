"""A module of the backbone with one trained copy per adapter.

Layer norms and task heads belong to the adapter that trained them. The module keeps its own,
untouched parameters under their own names; each adapter has a copy, and the active one answers. In
a call that names an adapter for each row, each row is answered by the copy of its own.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ._subclass import DynamicSubclass, become
from .rows import AdapterRows, RowScope, run_by_group


class SwitchableModule(DynamicSubclass):
    """Mixin: forward through the copy of the active adapter, if it has one."""

    coda_copies: nn.ModuleDict
    coda_active: str | None
    coda_scope: RowScope

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the active copy, or the original module."""
        rows = self.coda_scope.rows
        names = (self.coda_active,) if rows is None else rows.names
        if rows is None or len(set(map(self._coda_owner, names))) == 1:
            return self._coda_forward(names[0])(*args, **kwargs)
        return self._coda_answer_by_row(rows, args, kwargs)

    def _coda_owner(self, name: str | None) -> str | None:
        """Return the adapter if it has a copy, None if the original module answers for it."""
        return name if name is not None and name in self.coda_copies else None

    def _coda_forward(self, name: str | None) -> Callable[..., Any]:
        owner = self._coda_owner(name)
        return self._coda_original if owner is None else self.coda_copies[owner]

    def _coda_original(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the module as it was."""
        return super().forward(*args, **kwargs)

    def _coda_answer_by_row(
        self, rows: AdapterRows, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        """Answer each row by the copy of its adapter."""
        values = [*args, *kwargs.values()]
        states = next(value for value in values if isinstance(value, Tensor))
        rows.check(states, f"a {self.coda_original_class.__name__}")
        places = [i for i, value in enumerate(values) if _has_rows(value, len(states))]

        def run(part: AdapterRows, *tensors: Tensor) -> Any:  # noqa: ANN401
            chosen = [*values]
            for place, tensor in zip(places, tensors, strict=True):
                chosen[place] = tensor
            named = dict(zip(kwargs, chosen[len(args) :], strict=True))
            return self._coda_forward(part.names[0])(*chosen[: len(args)], **named)

        return run_by_group(rows, self._coda_owner, run, *(values[place] for place in places))


def _has_rows(value: object, batch: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch


def add_copy(module: nn.Module, adapter_name: str) -> None:
    """Give `module` a trainable copy of itself for `adapter_name`; it becomes switchable."""
    if isinstance(module, SwitchableModule):
        switchable = module
        trained = copy.deepcopy(next(iter(module.coda_copies.values())))
        originals = {k: v for k, v in module.state_dict().items() if "coda_copies." not in k}
        trained.load_state_dict(originals)
    else:
        trained = copy.deepcopy(module)
        switchable = become(module, SwitchableModule)
        switchable.coda_copies = nn.ModuleDict()
        switchable.coda_active = None
    switchable.coda_copies[adapter_name] = trained.requires_grad_()
