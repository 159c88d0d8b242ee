"""Conditional models as ONNX files: k of n tokens in any runtime.

The file computes k from the length of its input, chooses the tokens and runs the heavy layers on
those; nothing is computed and then masked. Batch size and length stay open. Numbers are those of
PyTorch, and so is the order of equal scores. docs/export.md says which models export.
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
from .export import export_answer, make_sample_inputs

# torch 2.13 translates to 23 as well, whose attention does not broadcast masks in ONNX Runtime.
OPSETS = range(18, 23)
_LARGEST_FILE = 2**31 - 2**24  # bytes of weights; a file of protocol buffers ends at 2 GiB
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
    """Write a model, conditional or not, as it is now: active adapter and reduction factor.

    Inputs keep their names, and the output has that of the model's output.

    Args:
        model: A model in float32, or a part of one, that takes its inputs by name. Of an
            encoder-decoder model export `model.get_encoder()`.
        path: The file; folders are made. Weights above 2 GiB go to a second file, `path` with
            ".data" appended.
        sample_inputs: A batch of at least 2 rows and 2 tokens. Only its shapes matter. None means
            one that fits the configuration (`make_sample_inputs`), with an attention mask for
            texts.
        batch_size: Rows of the batch if no inputs are given. The file takes any number.
        sequence_length: Tokens of text in it. The file takes any number that the model does.
        output: Which of the model's outputs to return; see `export_program`.
        dynamic_axes: The open axes of each input; see `export_program`.
        opset: Version of the ONNX operators, 18 to 22.
        int8: Write linear maps in 8 bits; see `quantize_onnx`.
        metadata: Notes for the file's own metadata.

    Returns:
        The path.

    Raises:
        ConfigError: If an argument is out of range, or the model does not export
            (docs/export.md).

    Example:
        >>> export_onnx(model, "model.onnx")
    """
    if opset not in OPSETS:
        raise ConfigError(
            f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, got {opset}. Take 20 unless "
            "your runtime is older."
        )
    if sample_inputs is None:
        sample_inputs = make_sample_inputs(
            model, batch_size=batch_size, sequence_length=sequence_length
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    program, answer = export_answer(model, sample_inputs, output=output, dynamic_axes=dynamic_axes)
    with _quiet("torch.onnx"):
        exported = torch.onnx.export(
            program,
            input_names=list(sample_inputs),
            output_names=[answer],
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert exported is not None, "torch.onnx.export returns nothing for TorchScript alone"
    _name_axes(exported.model)
    exported.model.metadata_props.update(metadata or {})
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    if int8:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            full = Path(folder) / "full.onnx"
            exported.save(full, external_data=num_bytes > _LARGEST_FILE)
            return quantize_onnx(full, path)
    exported.save(path, external_data=num_bytes > _LARGEST_FILE)
    return path


def quantize_onnx(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the linear maps of an ONNX file in 8 bits; states are rounded as they come.

    Weights get one scale per output, states one per call, so what a row gets depends a little on
    the rows beside it. Embeddings, norms, attention scores and the choice of tokens stay in
    float32.

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
    """Run an ONNX file on the CPU.

    Args:
        path: A file that `export_onnx` wrote.
        inputs: Its inputs by name; those that it does not take are refused.
        num_threads: Threads within an operator; 0 means one per core.

    Returns:
        Its output.
    """
    session = open_session(path, num_threads=num_threads)
    (result,) = session.run(None, {name: value.cpu().numpy() for name, value in inputs.items()})
    array: np.ndarray = result
    return array


def open_session(
    path: str | os.PathLike[str], *, num_threads: int = 0
) -> onnxruntime.InferenceSession:
    """Load an ONNX file into ONNX Runtime, on the CPU.

    Args:
        path: A file that `export_onnx` wrote.
        num_threads: Threads within an operator; 0 means one per core.

    Returns:
        The session.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the notes in a file.

    Args:
        path: A file that `export_onnx` wrote.

    Returns:
        What was given as `metadata`, and what other tools have added.
    """
    model = onnx.load(os.fspath(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def _name_axes(model: ir.Model) -> None:
    """Give the open axes of inputs and outputs names that say what they are."""
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
    """Keep back what a logger says about operators of other libraries and other ways to do it."""
    logger = logging.getLogger(None if name == "root" else name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns about its own copies of input trees.
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
