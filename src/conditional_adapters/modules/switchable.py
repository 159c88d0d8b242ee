"""Modules of the backbone with one trained copy per adapter.

Layer norms and task heads belong to the adapter that trained them. The module keeps its own,
untouched parameters under their own names; each adapter has a copy, and that of the active one is
called. In a mixed batch the copies are called on the examples of their adapters.
"""

import copy
from typing import Any

from torch import Tensor, nn

from ._subclass import DynamicSubclass, add_mixin
from .context import ForwardScope


class SwitchableModule(DynamicSubclass):
    """Mixin: forward through the copy of the active adapter, if it has one."""

    coda_copies: nn.ModuleDict
    coda_active: str | None
    coda_scope: ForwardScope

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the active copy, or the original module."""
        if self.coda_scope.batches:
            return self._coda_forward_mixed(*args, **kwargs)
        name = self.coda_active
        if name is not None and name in self.coda_copies:
            return self.coda_copies[name](*args, **kwargs)
        return self._coda_original(*args, **kwargs)

    def _coda_original(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the original module."""
        return super().forward(*args, **kwargs)

    def coda_computing(self) -> nn.Module:
        """Return the copy of the active adapter, or the module itself if there is none."""
        owner = self._coda_owner(self.coda_active)
        return self if owner is None else self.coda_copies[owner]

    def _coda_forward_mixed(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the copies of a mixed batch, each on the examples of its adapter."""
        _, batch = self.coda_scope.batches[-1]
        if len({self._coda_owner(name) for name in batch.names}) == 1:
            return self._coda_call(batch.names[0], *args, **kwargs)
        values = [*args, *kwargs.values()]
        states = next(value for value in values if isinstance(value, Tensor))
        batch.check(states, f"a {self.coda_original_class.__name__}")
        batched = [i for i, value in enumerate(values) if _has_batch(value, len(states))]

        def run(group: Any, *tensors: Tensor) -> Any:  # noqa: ANN401
            own = [*values]
            for index, tensor in zip(batched, tensors, strict=True):
                own[index] = tensor
            named = dict(zip(kwargs, own[len(args) :], strict=True))
            return self._coda_call(group.names[0], *own[: len(args)], **named)

        return batch.map_groups(self._coda_owner, run, *(values[index] for index in batched))

    def _coda_owner(self, name: str | None) -> str | None:
        """Return the name of an adapter with a copy; None: the original module is called."""
        return name if name is not None and name in self.coda_copies else None

    def _coda_call(self, name: str | None, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        owner = self._coda_owner(name)
        function = self._coda_original if owner is None else self.coda_copies[owner]
        return function(*args, **kwargs)


def _has_batch(value: object, batch: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch


def add_copy(module: nn.Module, adapter_name: str) -> None:
    """Add a trainable copy of `module` for `adapter_name`, and make the module switchable."""
    if isinstance(module, SwitchableModule):
        switchable = module
        trained = copy.deepcopy(next(iter(module.coda_copies.values())))
        originals = {k: v for k, v in module.state_dict().items() if "coda_copies." not in k}
        trained.load_state_dict(originals)
    else:
        trained = copy.deepcopy(module)
        switchable = add_mixin(module, SwitchableModule)
        switchable.coda_copies = nn.ModuleDict()
        switchable.coda_active = None
    switchable.coda_copies[adapter_name] = trained.requires_grad_()
