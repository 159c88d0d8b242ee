"""Modules that keep packed copies of their weights for inference on CPUs."""

from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..modules._subclass import DynamicSubclass
from ..ops import ACTIVATIONS
from .operators import can_pack, pack_weight, packed_linear


class PackedWeight:
    """A weight and its packed copy, which is made anew when the weight has changed.

    Changes through `weight.data`, as of a merged adapter, count no version: some elements are
    compared, and where they are.

    Args:
        weight: A weight for which `can_pack` is true.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._pack()

    def _pack(self) -> None:
        weight = self.weight
        self._packed = pack_weight(weight)
        self._state = weight._version, weight.data_ptr()
        diagonal = weight.detach().diagonal()
        self._elements = diagonal[:: max(len(diagonal) // 16, 1)]  # a view
        self._values = self._elements.clone()
        _IN_USE[weight.data_ptr()] = self

    def is_copy_of(self, weight: Tensor) -> bool:
        """Tell whether a tensor at the same address is the weight, and no part or view of it."""
        mine = self.weight
        is_alike = mine.shape == weight.shape and mine.stride() == weight.stride()
        return is_alike and mine.dtype == weight.dtype

    def current(self) -> Tensor:
        """Return the copy of the weight as it is now."""
        weight = self.weight
        is_current = self._state == (weight._version, weight.data_ptr()) and torch.equal(
            self._elements, self._values
        )
        if not is_current:
            self._pack()
        return self._packed


# By the address of the weight, which is nobody else's as long as this one is kept.
_IN_USE: WeakValueDictionary[int, PackedWeight] = WeakValueDictionary()


def packed_product(
    states: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Multiply by the packed copy of a weight, as one operator of a compiled graph.

    A graph cannot hold a packed tensor, so the copy is found at each call. Where the weight has
    been moved since it was packed, the weight itself is multiplied by.

    Args:
        states: Rows, (*batch, in).
        weight: As `torch.nn.Linear` keeps it, (out, in).
        bias: Added to each row, (out); None adds nothing.
        residual: Added to the product, (*batch, out); None adds nothing.

    Returns:
        The product, (*batch, out).
    """
    found = _IN_USE.get(weight.data_ptr())
    if found is not None and found.is_copy_of(weight):
        return packed_linear(states, found.current(), bias, residual)
    product = linear(states, weight, bias)
    return product if residual is None else residual + product


# Not by `custom_op`: what that puts around an operator would take a fifth of a short call's time.
# The operator goes when its library does, so that this file can be loaded again.
_LIBRARY = torch.library.Library("conditional_adapters", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATOR = "conditional_adapters::packed_product"
torch.library.define(
    _OPERATOR,
    "(Tensor states, Tensor weight, Tensor? bias, Tensor? residual) -> Tensor",
    lib=_LIBRARY,
)
torch.library.impl(_OPERATOR, "cpu", packed_product, lib=_LIBRARY)
torch.library.register_fake(
    _OPERATOR,
    lambda states, weight, bias, residual: states.new_empty((*states.shape[:-1], weight.shape[0])),
    lib=_LIBRARY,
)


class PackedModule(DynamicSubclass):
    """Mixin that multiplies by packed weights where no gradient is needed.

    A weight that has changed is packed again at the next call. Elsewhere, as in training, under
    autocast and in an exported graph, the module does what it always did.
    """

    coda_prefix = "Packed"
    coda_weights: ClassVar[tuple[str, ...]]  # the names of the parameters that are packed
    coda_packed: dict[str, PackedWeight]

    @classmethod
    def coda_can_pack(cls, module: nn.Module) -> bool:
        """Tell whether all weights of a module can be packed."""
        return all(can_pack(getattr(module, name)) for name in cls.coda_weights)

    def coda_pack(self) -> None:
        """Pack the weights as they are now."""
        self.coda_packed = {name: PackedWeight(getattr(self, name)) for name in self.coda_weights}

    def _coda_can_use(self, states: Tensor) -> bool:
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
        if torch.compiler.is_compiling():  # the operator in the graph finds out the rest
            return True
        return type(states) is Tensor and self.coda_can_pack(self)

    def _coda_multiply(
        self,
        states: Tensor,
        name: str,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Multiply by the weight of a name, and add."""
        weight: Tensor = getattr(self, name)
        if torch.compiler.is_compiling():
            product: Tensor = torch.ops.conditional_adapters.packed_product(
                states, weight, bias, residual
            )
            return product
        found = self.coda_packed.get(name)
        if found is None or found.weight is not weight:
            found = self.coda_packed[name] = PackedWeight(weight)
        return packed_linear(states, found.current(), bias, residual)

    def __getstate__(self) -> dict[str, Any]:
        # A packed tensor can be neither copied nor pickled; the copy packs its own weights.
        return {**vars(self), "coda_packed": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # At once: a graph that is compiled first would never find them packed.
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.coda_can_pack(self):
            self.coda_pack()


class PackedLinear(PackedModule):
    """Mixin for `nn.Linear`."""

    coda_weights = ("weight",)
    bias: Tensor | None  # of the linear map

    def forward(self, states: Tensor) -> Tensor:
        """Apply the linear map."""
        if self._coda_can_use(states):
            return self._coda_multiply(states, "weight", self.bias)
        answer: Tensor = super().forward(states)
        return answer


class PackedAdapter(PackedModule):
    """Mixin for `ParallelAdapter`."""

    coda_weights = ("down", "up")
    activation: str  # of the adapter

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """Add the adapter's update of each token to `residual`."""
        if self._coda_can_use(states) and residual.dtype == states.dtype:
            inner = ACTIVATIONS[self.activation](self._coda_multiply(states, "down"))
            return self._coda_multiply(inner, "up", residual=residual)
        answer: Tensor = super().forward(states, residual)
        return answer
