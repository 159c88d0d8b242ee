"""Number of parameters that an adapter adds and trains."""

from dataclasses import dataclass

from torch import nn

from ..model.attachment import active_adapter, adapter_parameters
from ..model.structure import transformers_model


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a conditional model.

    Attributes:
        new: Routers and adapters, which the pretrained model does not have.
        trainable: All parameters with gradients: `new`, the trained copies of norms and task head,
            and the parameters of other methods such as LoRA.
        total: The dense model and `new`. A trained copy is not counted beside its original.
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
        The counts. Parameters that several modules share count once.

    Raises:
        AttachmentError: If the model has no active adapter.
    """
    own = dict(adapter_parameters(model, active_adapter(model)))
    new = sum(p.numel() for path, p in own.items() if ".coda_adapters." in path)
    dense = trainable = 0
    for path, parameter in transformers_model(model).named_parameters():
        is_dense = ".coda_adapters." not in path and ".coda_copies." not in path
        if is_dense:
            dense += parameter.numel()
        if parameter.requires_grad and (is_dense or path in own):
            trainable += parameter.numel()
    return ParameterCount(new=new, trainable=trainable, total=dense + new)
