"""`coda export`: an ONNX file of a model with a trained adapter."""

from pathlib import Path
from typing import Annotated

import typer

from ..assets import find_adapter
from ..tasks.bundle import load_trained_classifier, read_task
from ..tasks.exporting import export_classifier
from . import _options as options
from ._console import messages, print_json


def export(
    adapter: options.Adapter,
    output: Annotated[
        Path, typer.Option(help="ONNX file to write; the tokenizer is saved in its folder.")
    ],
    reduction_factor: options.Factor = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantize linear layers to 8 bits."),
    ] = False,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 18 to 22.")] = 20,
    as_json: options.AsJson = False,
) -> None:
    """Export a trained classifier to an ONNX file that skips unimportant tokens as well.

    Batch size and sequence length are dynamic. The metadata of the file contain labels, max_length
    and r. The result is run once and compared with PyTorch.
    """
    folder = find_adapter(adapter)
    classifier = load_trained_classifier(folder, reduction_factor=reduction_factor)
    base_model = read_task(folder).base_model
    exported = export_classifier(classifier, output, base_model=base_model, opset=opset, int8=int8)
    size = exported.path.stat().st_size
    if as_json:
        report = {"output": str(exported.path), "bytes": size, "same_classes": exported.agrees}
        print_json(report | {"largest_difference": exported.largest_difference})
        return
    messages.print(f"{exported.path}, {size / 1e6:,.1f} MB")
    messages.print(
        f"largest difference from PyTorch in the logits of three rows: "
        f"{exported.largest_difference:.1g}; classes {'agree' if exported.agrees else 'differ'}"
    )
