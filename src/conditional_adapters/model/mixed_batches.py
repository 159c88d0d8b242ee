"""`model(..., adapter_names=[...])`: let each row of a batch have an adapter of its own.

A hook takes the argument before the model sees it. Until the call ends, its rows are in the scope
of the model, where norms and heads look them up and from where the hook hands them to every layer
as an argument (`modules.rows`).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import AttachmentError, RoutingError
from ..modules import ConditionalLayer
from ..modules.rows import ROWS_ARGUMENT, adapter_rows
from .attachment import Attachment

NAMES_ARGUMENT = "adapter_names"


class AdapterNamesHook:
    """Takes `adapter_names` from the arguments of a model.

    Args:
        attachment: Says which adapters there are.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment

    def register(
        self, models: Iterable[nn.Module], layers: Iterable[nn.Module]
    ) -> tuple[RemovableHandle, ...]:
        """Put the hook in its place.

        Args:
            models: What users may call with the argument: a task model, its base model, an encoder.
            layers: All layers of the encoder and the decoder.

        Returns:
            What removes it again.
        """
        models = list(dict.fromkeys(models))
        return (
            *(model.register_forward_pre_hook(self.begin, with_kwargs=True) for model in models),
            *(model.register_forward_hook(self.end, always_call=True) for model in models),
            *(layer.register_forward_pre_hook(self.relay, with_kwargs=True) for layer in layers),
        )

    def begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note the rows of a call, if it names adapters."""
        if NAMES_ARGUMENT not in kwargs:
            return args, kwargs
        others = {name: value for name, value in kwargs.items() if name != NAMES_ARGUMENT}
        names = kwargs[NAMES_ARGUMENT]
        if names is None:
            return args, others
        self._check(names)
        rows = adapter_rows(
            names,
            device=next(model.parameters()).device,
            factors={name: self._sample(name) for name in names} if model.training else {},
        )
        self.attachment.scope.enter(model, rows)
        return args, others

    def relay(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hand the rows to a layer, as an argument that it gets again if it is computed again."""
        rows = self.attachment.scope.rows
        if rows is None or not isinstance(layer, ConditionalLayer):
            return args, kwargs
        return args, {ROWS_ARGUMENT: rows, **kwargs}

    def end(self, model: nn.Module, args: object, output: object) -> None:
        """Forget the rows of a call."""
        self.attachment.scope.leave(model)

    def _check(self, names: object) -> None:
        configs = self.attachment.configs
        if not isinstance(names, list | tuple) or not names:
            raise RoutingError(
                f"adapter_names must be a list with the name of an adapter, or None, for each row "
                f"of the batch, got {names!r}. For one adapter call set_adapter(model, name)."
            )
        for name in names:
            if name is not None and name not in configs:
                raise AttachmentError(
                    f"the model has no adapter {name!r}. It has {list(configs)}; None stands for "
                    "the pretrained model without an adapter."
                )

    def _sample(self, name: str | None) -> float | None:
        """Draw a reduction factor for an elastic adapter in training."""
        elastic = () if name is None else self.attachment.configs[name].elastic_factors
        return elastic[int(torch.randint(len(elastic), ()))] if elastic else None
