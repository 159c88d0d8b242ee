"""How many parameters an adapter adds and trains."""

from dataclasses import dataclass

from torch import nn

from ..model.attachment import active_adapter, adapter_parameters
from ..model.structure import transformers_model


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a conditional model.

    Attributes:
        new: Routers and adapters: what the pretrained model does not have.
        trainable: Everything that gets a gradient: `new`, the trained copies of norms and task
            head, and what other methods (LoRA) train.
        total: The dense model and `new`; a trained copy stands in for its original.
    """

    new: int
    trainable: int
    total: int

    @property
    def new_share(self) -> float:
        """New parameters as a share of the dense model's, in [0, 1)."""
        return self.new / (self.total - self.new)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of a conditional model with its active adapter.

    Args:
        model: A model that `attach` was called on.

    Returns:
        The counts, parameters shared by several modules once.

    Raises:
        AttachmentError: If the model has no active adapter.
    """
    own = dict(adapter_parameters(model, active_adapter(model)))
    new = sum(p.numel() for path, p in own.items() if ".coda_adapters." in path)
    parameters = dict(transformers_model(model).named_parameters())
    dense = sum(
        p.numel()
        for path, p in parameters.items()
        if ".coda_adapters." not in path and ".coda_copies." not in path
    )
    trainable = sum(
        p.numel()
        for path, p in parameters.items()
        if p.requires_grad and (path in own or not _is_adapters(path))
    )
    return ParameterCount(new=new, trainable=trainable, total=dense + new)


def _is_adapters(path: str) -> bool:
    return ".coda_adapters." in path or ".coda_copies." in path
