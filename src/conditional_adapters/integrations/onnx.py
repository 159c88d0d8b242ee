"""Export conditional models to ONNX.

The file computes k from the length of its input, selects the tokens and runs the heavy layers on
them only. Batch size and length are dynamic. Numbers and the order of equal scores are those of
PyTorch. docs/export.md lists the models that can be exported.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxscript import ir
from torch import Tensor, nn

from ..errors import ConfigError
from ._onnx_operators import TRANSLATIONS
from .export import export_program, make_sample_inputs, output_name

# torch 2.13 also supports opset 23, but its attention does not broadcast masks in ONNX Runtime.
OPSETS = range(18, 23)
_MAX_FILE_SIZE = 2**31 - 2**24  # bytes of weights; protocol buffers are limited to 2 GiB
_AXES = ("batch", "length")


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    sample_inputs: Mapping[str, Tensor] | None = None,
    batch_size: int = 2,
    sequence_length: int = 16,
    output: str | None = None,
    dynamic_axes: Mapping[str, Sequence[int]] | None = None,
    opset: int = 20,
    int8: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a model, conditional or not, with its current adapter and reduction factor.

    Inputs and output keep the names that they have in the model.

    Args:
        model: A model in float32, or a part of one, that takes its inputs by name. For an
            encoder-decoder model export `model.get_encoder()`.
        path: The file; folders are created. Weights above 2 GiB go to a second file, `path` with
            ".data" appended.
        sample_inputs: A batch of at least 2 examples and 2 tokens. Only its shapes matter. None
            means `make_sample_inputs`, with an attention mask for texts.
        batch_size: Batch size if no inputs are given. The file takes any.
        sequence_length: Tokens per text if no inputs are given. The file takes any length that the
            model takes.
        output: The model output to return; see `export_program`.
        dynamic_axes: The dynamic axes of each input; see `export_program`.
        opset: Version of the ONNX operators, 18 to 22.
        int8: Quantize linear maps to 8 bits; see `quantize_onnx`.
        metadata: Entries for the file's metadata.

    Returns:
        The path.

    Raises:
        ConfigError: If an argument is out of range, or the model cannot be exported
            (docs/export.md).

    Example:
        >>> export_onnx(model, "model.onnx")
    """
    if opset not in OPSETS:
        raise ConfigError(
            f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, got {opset}. Use 20 unless "
            "your runtime is older."
        )
    if sample_inputs is None:
        sample_inputs = make_sample_inputs(
            model, batch_size=batch_size, sequence_length=sequence_length
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    output = output_name(model, sample_inputs, output)
    program = export_program(model, sample_inputs, output=output, dynamic_axes=dynamic_axes)
    with _quiet("torch.onnx"):
        exported = torch.onnx.export(
            program,
            input_names=list(sample_inputs),
            output_names=[output],
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert exported is not None, "torch.onnx.export returns nothing for TorchScript alone"
    _name_axes(exported.model)
    exported.model.metadata_props.update(metadata or {})
    is_large = sum(p.numel() * p.element_size() for p in model.parameters()) > _MAX_FILE_SIZE
    if not int8:
        exported.save(path, external_data=is_large)
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        full = Path(folder) / "full.onnx"
        exported.save(full, external_data=is_large)
        return quantize_onnx(full, path)


def quantize_onnx(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Quantize the linear maps of an ONNX file to 8 bits, with dynamic activation scales.

    Weights have one scale per output, activations one per call, so the outputs of an example depend
    slightly on its batch. Embeddings, norms, attention scores and router scores stay in float32.

    Args:
        source: A file in float32.
        target: The file to write.

    Returns:
        Its path.
    """
    target = Path(target)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, _quiet("root"):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(
            os.fspath(source), prepared, skip_optimization=True, skip_symbolic_shape=True
        )
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=["MatMul"],  # Gemm included, as MatMul and Add
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    return target


def run_onnx(
    path: str | os.PathLike[str], inputs: Mapping[str, Tensor], *, num_threads: int = 0
) -> np.ndarray:
    """Run an ONNX file on the CPU, on inputs by name; 0 threads means one per core."""
    session = open_session(path, num_threads=num_threads)
    (result,) = session.run(None, {name: value.cpu().numpy() for name, value in inputs.items()})
    array: np.ndarray = result
    return array


def open_session(
    path: str | os.PathLike[str], *, num_threads: int = 0
) -> onnxruntime.InferenceSession:
    """Load an ONNX file into ONNX Runtime, on the CPU; 0 threads means one per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # x86 processors without VNNI add two 8-bit products in 16 bits, which saturates; ONNX Runtime
    # then multiplies exactly, if it is told to. No effect on other processors.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a file: the entries of `export_onnx`, and those of other tools."""
    model = onnx.load(os.fspath(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def _name_axes(model: ir.Model) -> None:
    """Rename the dynamic axes to "batch" and "length", in inputs, outputs and between."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                default = _AXES[axis] if axis < len(_AXES) else f"{value.name}_axis_{axis}"
                names.setdefault(size.value, default)
    values = [*model.graph.inputs]
    values += [value for node in model.graph for value in node.outputs]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value in names:
                assert value.shape is not None
                value.shape[axis] = names[size.value]


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Suppress the warnings of a logger about operators of other libraries."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns about its own use of a deprecated class.
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
