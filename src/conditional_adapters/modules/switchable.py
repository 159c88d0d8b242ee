"""A module of the backbone with one trained copy per adapter.

Layer norms and task heads belong to the adapter that trained them. The module keeps its own,
untouched parameters under their own names; each adapter has a copy, and the active one answers. In
a call that names an adapter for each row, each row is answered by the copy of its own.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

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
        return self._coda_answer(super().forward, args, kwargs)

    def _coda_answer(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        copies, rows = self.coda_copies, self.coda_scope.rows

        def copy_of(name: str | None) -> str | None:
            return name if name is not None and name in copies else None

        def answer(name: str | None) -> Callable[..., Any]:
            return original if copy_of(name) is None else copies[cast("str", name)]

        names = (self.coda_active,) if rows is None else rows.names
        if rows is None or len(set(map(copy_of, names))) == 1:
            return answer(names[0])(*args, **kwargs)
        values = [*args, *kwargs.values()]
        states = next(value for value in values if isinstance(value, Tensor))
        rows.check(states, f"a {self.coda_original_class.__name__}")
        places = [i for i, value in enumerate(values) if _has_rows(value, len(states))]

        def run(part: AdapterRows, *tensors: Tensor) -> Any:  # noqa: ANN401
            chosen = [*values]
            for place, tensor in zip(places, tensors, strict=True):
                chosen[place] = tensor
            named = dict(zip(kwargs, chosen[len(args) :], strict=True))
            return answer(part.names[0])(*chosen[: len(args)], **named)

        return run_by_group(rows, copy_of, run, *(values[place] for place in places))


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
