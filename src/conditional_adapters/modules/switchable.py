"""A module of the backbone with one trained copy per adapter.

Layer norms and task heads belong to the adapter that trained them. The module keeps its own,
untouched parameters under their own names; each adapter has a copy, and the active one answers.
"""

import copy
from typing import Any

from torch import nn

from ._subclass import DynamicSubclass, become


class SwitchableModule(DynamicSubclass):
    """Mixin: forward through the copy of the active adapter, if it has one."""

    coda_copies: nn.ModuleDict
    coda_active: str | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the active copy, or the original module."""
        if self.coda_active is not None and self.coda_active in self.coda_copies:
            return self.coda_copies[self.coda_active](*args, **kwargs)
        return super().forward(*args, **kwargs)


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
