"""Export conditional models by `torch.export`, with dynamic batch size and length.

The model is not rewritten. During export, layers compute k from the padded length and leave the
slots beyond a sequence's own budget unused. The numbers are the same, and k is an expression of the
length instead of a constant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ..analysis._modes import evaluating, refuse_dense_below
from ..analysis.flops import dummy_inputs
from ..errors import ConfigError
from ..model.structure import find_sites

# The default output is the first of these that the model has.
_OUTPUTS = ("logits", "text_embeds", "image_embeds", "last_hidden_state")


class _Positional(nn.Module):
    """A model with positional tensor inputs and one tensor output, as other runtimes expect."""

    def __init__(self, model: nn.Module, names: Sequence[str], output: str) -> None:
        super().__init__()
        self.model, self.names, self.output = model, tuple(names), output

    def forward(self, *values: Tensor) -> Tensor:
        result: Tensor = self.model(**dict(zip(self.names, values, strict=True)))[self.output]
        return result


def make_sample_inputs(
    model: nn.Module, *, batch_size: int = 2, sequence_length: int = 16
) -> dict[str, Tensor]:
    """Make a batch to export a model with."""
    sites = find_sites(model)
    runner: Any = sites.runner
    is_text = runner.main_input_name == "input_ids"
    shapes = dummy_inputs(
        sites, batch_size=batch_size, sequence_length=sequence_length if is_text else None
    )
    inputs = {name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    if is_text:
        mask = torch.ones(batch_size, sequence_length, dtype=torch.int64)
        mask[-1, sequence_length // 2 :] = 0
        inputs["attention_mask"] = mask
    return {name: value.to(sites.model.device) for name, value in inputs.items()}


def export_program(
    model: nn.Module,
    sample_inputs: Mapping[str, Tensor],
    *,
    output: str | None = None,
    dynamic_axes: Mapping[str, Sequence[int]] | None = None,
) -> ExportedProgram:
    """Export a model, conditional or not, with its current adapter and reduction factor.

    Args:
        model: A model, or a part of one, that takes its inputs by name. For an encoder-decoder
            model export `model.get_encoder()`.
        sample_inputs: A batch of at least 2 examples and 2 tokens. The program takes the same
            inputs, by position. Include the attention mask if sequences may be padded: inputs
            cannot be added later.
        output: The model output that the program returns; None means the logits, or the embedding
            or states of a model without a task head.
        dynamic_axes: The dynamic axes of each input; all others are fixed. None means the batch
            axis and, if all inputs have two axes (token ids and masks, or samples), the length.

    Returns:
        The program, which does not copy the weights.

    Raises:
        ConfigError: If the inputs or the output do not fit, small batches run dense, or the model
            has data-dependent control flow (docs/export.md).
    """
    refuse_dense_below(model, "but an exported program has one path for all batch sizes")
    if dynamic_axes is None:
        has_length = all(value.dim() == 2 for value in sample_inputs.values())
        dynamic_axes = dict.fromkeys(sample_inputs, (0, 1) if has_length else (0,))
    for name, axes in dynamic_axes.items():
        if name not in sample_inputs:
            raise ConfigError(
                f"dynamic_axes names {name!r}, but sample_inputs has {list(sample_inputs)}. Name "
                "one of these."
            )
        shape = tuple(sample_inputs[name].shape)
        if any(shape[axis] < 2 for axis in axes):
            raise ConfigError(
                f"sample input {name!r} has shape {shape}, but a dynamic axis needs a size of at "
                "least 2: size 1 becomes a constant of the program. Use a batch of 2 or more."
            )
    shapes = tuple(dict.fromkeys(dynamic_axes.get(name, ()), Dim.DYNAMIC) for name in sample_inputs)
    name = output_name(model, sample_inputs, output)
    with evaluating(model), torch.no_grad():
        try:
            return torch.export.export(
                _Positional(model, list(sample_inputs), name),
                tuple(sample_inputs.values()),
                dynamic_shapes={"values": shapes},
                strict=False,
            )
        except (torch._dynamo.exc.UserError, GuardOnDataDependentSymNode) as error:
            raise ConfigError(
                f"{type(model).__name__} cannot be exported with the dynamic axes "
                f"{ {name: list(axes) for name, axes in dynamic_axes.items()} }: its code has "
                "data-dependent control flow. Use fewer dynamic_axes, or one of the models that "
                "docs/export.md lists."
            ) from error


def output_name(
    model: nn.Module, inputs: Mapping[str, Tensor], requested: str | None = None
) -> str:
    """Run a model once, and return the name of the requested or the default output."""
    with evaluating(model), torch.no_grad():
        outputs = model(**inputs)
    names = _OUTPUTS if requested is None else (requested,)
    for name in names:
        if isinstance(outputs.get(name), Tensor):
            return name
    raise ConfigError(
        f"{type(model).__name__} returns {list(outputs)}, but none of {list(names)} as a tensor. "
        "Name one of its outputs."
    )
