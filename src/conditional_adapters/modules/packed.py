"""A linear map of the backbone that keeps a packed copy of its weight for inference on CPUs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import can_pack, pack_weight, packed_linear
from ._subclass import DynamicSubclass


class PackedWeight(NamedTuple):
    """A packed copy, and what tells that the weight has changed since.

    Changes through `weight.data`, as of a merged adapter, count no version: some elements are
    compared, and where they are.
    """

    packed: Tensor
    source: Tensor
    version: int
    address: int
    elements: Tensor  # a view of the weight
    values: Tensor  # what they were

    @classmethod
    def of(cls, weight: Tensor) -> "PackedWeight":
        """Pack a weight as it is now."""
        diagonal = weight.detach().diagonal()
        elements = diagonal[:: max(len(diagonal) // 16, 1)]
        where = weight._version, weight.data_ptr()
        return cls(pack_weight(weight), weight, *where, elements, elements.clone())

    def is_current(self, weight: Tensor) -> bool:
        """Tell whether it is a copy of this weight as it is now."""
        return (
            self.source is weight
            and self.version == weight._version
            and self.address == weight.data_ptr()
            and torch.equal(self.elements, self.values)
        )


class PackedModule(DynamicSubclass):
    """Mixin for `nn.Linear`: multiply by the packed weight where no gradient is needed.

    A weight that has changed is packed again at the next call. Elsewhere, as in training, under
    autocast and in a traced graph, the module does what it always did.
    """

    coda_packed: PackedWeight | None
    weight: Tensor  # of the linear map
    bias: Tensor | None

    def forward(self, states: Tensor) -> Tensor:
        """Apply the linear map."""
        if not self._coda_can_use(states):
            answer: Tensor = super().forward(states)
            return answer
        found = self.coda_packed
        if found is None or not found.is_current(self.weight):
            found = self.coda_pack()
        return packed_linear(states, found.packed, self.bias)

    def coda_pack(self) -> PackedWeight:
        """Pack the weight as it is now."""
        self.coda_packed = made = PackedWeight.of(self.weight)
        return made

    def _coda_can_use(self, states: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return False
        weight, bias = self.weight, self.bias
        needs_gradient = torch.is_grad_enabled() and (
            states.requires_grad
            or weight.requires_grad
            or (bias is not None and bias.requires_grad)
        )
        if needs_gradient or torch.is_autocast_enabled("cpu"):
            return False
        is_plain = type(states) is Tensor and states.device.type == "cpu"
        return is_plain and states.dtype == weight.dtype and can_pack(weight)

    def __getstate__(self) -> dict[str, Any]:
        # A packed tensor can be neither copied nor pickled; the copy packs its own weight.
        return {**vars(self), "coda_packed": None}
