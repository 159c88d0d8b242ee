"""Floating-point operations of the encoder, counted by a run on fake tensors.

The model runs once with its adapter and once without, on tensors that have shapes but no memory,
while torch counts the operations of matrix products, convolutions and attention. This covers every
architecture and counts the operators that really run. Elementwise work (norms, activations, router
scores) is not counted.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import ConfigError
from ..model.attachment import active_adapter, without_adapter
from ..model.structure import Sites, find_sites
from ._modes import evaluating


def _prepacked_linear_flop(
    states: tuple[int, ...],
    first: tuple[int, ...],
    second: tuple[int, ...] | None,
    *_: object,
    **__: object,
) -> int:
    # Either weight and bias (or None), or residual and weight.
    weight = second if second is not None and len(second) == 2 else first
    return 2 * prod(states) * weight[0]


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one forward pass (a multiply-add counts as two).

    Attributes:
        total: The encoder with its active adapter, at its current reduction factor.
        dense: The pretrained encoder without any adapter.
    """

    total: int
    dense: int

    @property
    def ratio(self) -> float:
        """Operations of the dense encoder over those of the conditional one."""
        return self.dense / self.total


def estimate_flops(
    model: nn.Module,
    *,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> FlopCount:
    """Count the floating-point operations of a forward pass through the encoder.

    The task head is included, a decoder is not. Pass sizes to count sequences without padding, or
    inputs to count a given batch with its padding.

    Args:
        model: A conditional model with an active adapter.
        batch_size: Sequences per forward pass, >= 1.
        sequence_length: Tokens per sequence, for text models. The configuration of image models and
            Whisper gives their input size.
        inputs: Arguments of the model, instead of sizes. Arguments of a decoder are ignored.

    Returns:
        The counts.

    Raises:
        ConfigError: If a size is out of range, is missing, or is not wanted.
        AttachmentError: If the model has no active adapter.
    """
    active_adapter(model)
    sites = find_sites(model)
    with ExitStack() as stack:
        if inputs is not None and batch_size is None:
            arguments = {k: v for k, v in inputs.items() if not k.startswith("decoder_")}
        elif inputs is None and batch_size is not None:
            shapes = dummy_inputs(sites, batch_size=batch_size, sequence_length=sequence_length)
            device = next(sites.runner.parameters()).device
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            arguments = {
                name: torch.zeros(shape, dtype=dtype, device=device)
                for name, (shape, dtype) in shapes.items()
            }
        else:
            raise ConfigError("estimate_flops needs either batch_size or inputs. Pass one of them.")
        total = count_flops(sites.runner, arguments)
        with without_adapter(model):
            dense = count_flops(sites.runner, arguments)
    return FlopCount(total=total, dense=dense)


def dummy_inputs(
    sites: Sites, *, batch_size: int, sequence_length: int | None
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of the encoder's input by argument name; the length is for text models."""
    config: Any = sites.config
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    runner: Any = sites.runner
    name: str = runner.main_input_name
    if name == "input_ids":
        if sequence_length is None or sequence_length < 1:
            raise ConfigError(
                f"sequence_length must be at least 1 for a text model, got {sequence_length}."
            )
        return {name: ((batch_size, sequence_length), torch.int64)}
    if sequence_length is not None:
        raise ConfigError(
            f"sequence_length must be None for a {config.model_type!r} model, got "
            f"{sequence_length}: its input size is fixed by its configuration."
        )
    dtype = next(p.dtype for p in sites.model.parameters() if p.is_floating_point())
    if name == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        frames = (config.num_frames,) if hasattr(config, "num_frames") else ()
        return {name: ((batch_size, *frames, config.num_channels, height, width), dtype)}
    if name == "input_features" and hasattr(config, "max_source_positions"):
        shape = (batch_size, config.num_mel_bins, 2 * config.max_source_positions)
        return {name: (shape, dtype)}
    raise ConfigError(
        f"the configuration of a {config.model_type!r} model does not give the size of its input. "
        "Call estimate_flops(model, inputs=batch)."
    )


def count_flops(module: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Count the floating-point operations of a call of any module, without gradients."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count  # may import Triton

    mapping: dict[Any, Callable[..., Any]] = {  # operators that torch 2.13 does not count
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
        )
    }
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        mapping[torch.ops.mkldnn._linear_pointwise] = _prepacked_linear_flop
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with evaluating(module), torch.no_grad(), counter:
        module(**inputs)
    return int(counter.get_total_flops())
