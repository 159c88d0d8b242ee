"""Linear maps and adapters that multiply by prepacked copies of their weights.

`_PREPACKED`, the table of the copies by the address of the weight, is process-wide: an operator
inside a compiled graph takes plain tensors only and cannot hold a prepacked one, so it looks the
copy up at each call. The table holds weak references; a copy lives as long as its module.
"""

from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..modules._subclass import DynamicSubclass
from ..ops import ACTIVATIONS
from .operators import can_prepack, prepack_weight, prepacked_linear


class PrepackedWeight:
    """A weight and its prepacked copy, which is renewed when the weight has changed."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._prepack()

    def _prepack(self) -> None:
        weight = self.weight
        self._copy = prepack_weight(weight)
        # Changes through `weight.data`, as in merging a LoRA, count no version. To detect them, the
        # address and some elements are compared.
        self._state = weight._version, weight.data_ptr()
        diagonal = weight.detach().diagonal()
        self._elements = diagonal[:: max(len(diagonal) // 16, 1)]  # a view
        self._values = self._elements.clone()
        _PREPACKED[weight.data_ptr()] = self

    def is_copy_of(self, weight: Tensor) -> bool:
        """Whether a tensor at the same address is the whole weight, not a slice or view of it."""
        own = self.weight
        is_alike = own.shape == weight.shape and own.stride() == weight.stride()
        return is_alike and own.dtype == weight.dtype

    def current(self) -> Tensor:
        """Return the prepacked copy, after renewing it if the weight has changed."""
        has_same_state = self._state == (self.weight._version, self.weight.data_ptr())
        if not (has_same_state and torch.equal(self._elements, self._values)):
            self._prepack()
        return self._copy


# A weight that is referenced here keeps its address, so no other tensor can have it.
_PREPACKED: WeakValueDictionary[int, PrepackedWeight] = WeakValueDictionary()


def linear_by_address(
    states: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Operator of compiled graphs: as `prepacked_linear`, but of the weight itself."""
    found = _PREPACKED.get(weight.data_ptr())
    if found is not None and found.is_copy_of(weight):
        return prepacked_linear(states, found.current(), bias, residual)
    product = linear(states, weight, bias)  # the weight has been moved since it was prepacked
    return product if residual is None else residual + product


# Not by `custom_op`: its wrapper takes a fifth of the time of a short call. The operator is removed
# with its library, so this file can be reloaded.
_LIBRARY = torch.library.Library("conditional_adapters", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATOR = "conditional_adapters::prepacked_linear"
torch.library.define(
    _OPERATOR,
    "(Tensor states, Tensor weight, Tensor? bias, Tensor? residual) -> Tensor",
    lib=_LIBRARY,
)
torch.library.impl(_OPERATOR, "cpu", linear_by_address, lib=_LIBRARY)
torch.library.register_fake(
    _OPERATOR,
    lambda states, weight, bias, residual: states.new_empty((*states.shape[:-1], weight.shape[0])),
    lib=_LIBRARY,
)


class PrepackedModule(DynamicSubclass):
    """Mixin that multiplies by prepacked weights where no gradient is needed.

    In training, under autocast, on other devices and in exported graphs the module computes as
    without the mixin.
    """

    coda_prefix = "Prepacked"
    coda_weights: ClassVar[tuple[str, ...]]  # names of the parameters to prepack
    coda_prepacked: dict[str, PrepackedWeight]

    @classmethod
    def coda_can_prepack(cls, module: nn.Module) -> bool:
        """Whether all weights of a module can be prepacked."""
        return all(can_prepack(getattr(module, name)) for name in cls.coda_weights)

    def coda_prepack(self) -> None:
        """Prepack the current weights."""
        self.coda_prepacked = {
            name: PrepackedWeight(getattr(self, name)) for name in self.coda_weights
        }

    def _coda_is_usable(self, states: Tensor) -> bool:
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return False
        if torch.is_autocast_enabled("cpu") or states.device.type != "cpu":
            return False
        if torch.is_grad_enabled() and any(
            value is not None and value.requires_grad
            for value in (states, *self._parameters.values())
        ):
            return False
        if any(states.dtype != getattr(self, name).dtype for name in self.coda_weights):
            return False
        if torch.compiler.is_compiling():  # the operator in the graph checks the weights
            return True
        return type(states) is Tensor and self.coda_can_prepack(self)

    def _coda_linear(
        self,
        states: Tensor,
        name: str,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        weight: Tensor = getattr(self, name)
        if torch.compiler.is_compiling():
            product: Tensor = torch.ops.conditional_adapters.prepacked_linear(
                states, weight, bias, residual
            )
            return product
        found = self.coda_prepacked.get(name)
        if found is None or found.weight is not weight:
            found = self.coda_prepacked[name] = PrepackedWeight(weight)
        return prepacked_linear(states, found.current(), bias, residual)

    def __getstate__(self) -> dict[str, Any]:
        # Prepacked tensors can be neither copied nor pickled. A copy prepacks its own weights.
        return {**vars(self), "coda_prepacked": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Now, not at the first call: a compiled graph does not prepack.
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.coda_can_prepack(self):
            self.coda_prepack()


class PrepackedLinear(PrepackedModule):
    """Mixin for `nn.Linear`."""

    coda_weights = ("weight",)
    bias: Tensor | None

    def forward(self, states: Tensor) -> Tensor:
        """Apply the linear map."""
        if self._coda_is_usable(states):
            return self._coda_linear(states, "weight", self.bias)
        output: Tensor = super().forward(states)
        return output


class PrepackedAdapter(PrepackedModule):
    """Mixin for `ParallelAdapter`."""

    coda_weights = ("down", "up")
    activation: str

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """Add the adapter's output to the residual."""
        if self._coda_is_usable(states) and residual.dtype == states.dtype:
            inner = ACTIVATIONS[self.activation](self._coda_linear(states, "down"))
            return self._coda_linear(inner, "up", residual=residual)
        output: Tensor = super().forward(states, residual)
        return output
