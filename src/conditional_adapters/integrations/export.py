"""Conditional models as programs of `torch.export`, with batch and length left open.

Nothing is rewritten for it. While a model is exported, layers take k from the padded length and
leave the slots beyond a row's own budget unused: the same numbers as otherwise, and k is an
expression in the length instead of a number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ..analysis._modes import evaluating
from ..analysis.flops import dummy_inputs
from ..errors import ConfigError
from ..model.structure import find_sites

# What a model answers: the first of these that it has.
_ANSWERS = ("logits", "text_embeds", "image_embeds", "last_hidden_state")


class _Positional(nn.Module):
    """A model that takes tensors by position and returns one, as programs of other runtimes do."""

    def __init__(self, model: nn.Module, names: Sequence[str], output: str) -> None:
        super().__init__()
        self.model, self.names, self.output = model, tuple(names), output

    def forward(self, *values: Tensor) -> Tensor:
        """Call the model."""
        answer: Tensor = self.model(**dict(zip(self.names, values, strict=True)))[self.output]
        return answer


def make_sample_inputs(
    model: nn.Module, *, batch_size: int = 2, sequence_length: int = 16
) -> dict[str, Tensor]:
    """Make a batch to export a model with.

    Args:
        model: A model of a supported type.
        batch_size: Rows, >= 2.
        sequence_length: Tokens of a text model, >= 2. Other models have the size that their
            configuration gives.

    Returns:
        Arguments by name. Texts come with an attention mask, and half of the last row is padding.

    Raises:
        ConfigError: If a size is out of range or the configuration does not give one.
    """
    sites = find_sites(model)
    runner: Any = sites.runner
    is_text = runner.main_input_name == "input_ids"
    length = sequence_length if is_text else None
    inputs = {
        name: torch.ones(shape, dtype=dtype)
        for name, (shape, dtype) in dummy_inputs(
            sites, batch_size=batch_size, sequence_length=length
        ).items()
    }
    if is_text:
        mask = torch.ones(batch_size, sequence_length, dtype=torch.int64)
        mask[-1, sequence_length // 2 :] = 0
        inputs["attention_mask"] = mask
    device = sites.model.device
    return {name: value.to(device) for name, value in inputs.items()}


def export_program(
    model: nn.Module,
    sample_inputs: Mapping[str, Tensor],
    *,
    output: str | None = None,
    dynamic_axes: Mapping[str, Sequence[int]] | None = None,
) -> ExportedProgram:
    """Export a model, conditional or not, as it is now: active adapter and reduction factor.

    Args:
        model: A model, or a part of one, that takes its inputs by name. Of an encoder-decoder
            model export `model.get_encoder()`.
        sample_inputs: A batch of at least 2 rows and 2 tokens. The program takes the same inputs,
            by position. Pass the attention mask if sequences may be padded: what is not an input
            cannot become one.
        output: Which of the model's outputs the program returns; None means the logits, or the
            embedding or states of a model without a task.
        dynamic_axes: The open axes of each input; those left out are fixed. None means the batch
            axis and, where all inputs have two axes (token ids and masks, or samples), the length.

    Returns:
        The program, which keeps a copy of no weight.

    Raises:
        ConfigError: If the inputs or the output do not fit, small batches run dense, or the model
            asks for numbers that are only known when it runs (docs/export.md).
    """
    return export_answer(model, sample_inputs, output=output, dynamic_axes=dynamic_axes)[0]


def export_answer(
    model: nn.Module,
    sample_inputs: Mapping[str, Tensor],
    *,
    output: str | None,
    dynamic_axes: Mapping[str, Sequence[int]] | None,
) -> tuple[ExportedProgram, str]:
    """Do what `export_program` says; return the name of the output as well."""
    _refuse_two_paths(model)
    if dynamic_axes is None:
        has_length = all(value.dim() == 2 for value in sample_inputs.values())
        dynamic_axes = dict.fromkeys(sample_inputs, (0, 1) if has_length else (0,))
    for name, axes in dynamic_axes.items():
        if name not in sample_inputs:
            raise ConfigError(
                f"dynamic_axes names {name!r}, but sample_inputs has {list(sample_inputs)}. Name "
                "one of these."
            )
        sizes = [sample_inputs[name].shape[axis] for axis in axes]
        if any(size < 2 for size in sizes):
            raise ConfigError(
                f"sample input {name!r} has shape {tuple(sample_inputs[name].shape)}, but an open "
                "axis must have at least 2 entries: 1 would become part of the program. Give a "
                "batch of 2 or more."
            )
    shapes = tuple(dict.fromkeys(dynamic_axes.get(name, ()), Dim.DYNAMIC) for name in sample_inputs)
    with evaluating(model), torch.no_grad():
        answer = _output_name(model, sample_inputs, output)
        try:
            program = torch.export.export(
                _Positional(model, list(sample_inputs), answer),
                tuple(sample_inputs.values()),
                dynamic_shapes={"values": shapes},
                strict=False,
            )
        except (torch._dynamo.exc.UserError, GuardOnDataDependentSymNode) as error:
            raise ConfigError(
                f"{type(model).__name__} does not export with these open axes: "
                f"{ {name: list(axes) for name, axes in dynamic_axes.items()} }. Its own code asks "
                "for a number that is only known when it runs. docs/export.md lists such models; "
                "fewer dynamic_axes may help."
            ) from error
    return program, answer


def _refuse_two_paths(model: nn.Module) -> None:
    """Refuse a model whose small batches take another way; a program has one."""
    limits = {getattr(module, "coda_dense_below", None) for module in model.modules()} - {None}
    if limits:
        raise ConfigError(
            f"the model runs batches of fewer than {limits.pop()} tokens dense, and an exported "
            "program has one path for all sizes. Call set_dense_below(model, None) first."
        )


def _output_name(model: nn.Module, inputs: Mapping[str, Tensor], wanted: str | None) -> str:
    """Run the model once and say which of its outputs is meant."""
    answer = model(**inputs)
    names = _ANSWERS if wanted is None else (wanted,)
    found = next((name for name in names if isinstance(answer.get(name), Tensor)), None)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} returns {list(answer)}, and none of {list(names)} among them "
            "is a tensor. Name one of its outputs."
        )
    return found
