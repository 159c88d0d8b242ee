"""`coda export`: a trained adapter and its model as one ONNX file."""

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
        Path, typer.Option(help="ONNX file to write; the tokenizer goes to its folder.")
    ],
    reduction_factor: options.Factor = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write linear maps in 8 bits: a quarter of the size.")
    ] = False,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 18 to 22.")] = 20,
    as_json: options.AsJson = False,
) -> None:
    """Write a trained classifier as an ONNX file that runs its heavy layers on k of n tokens.

    Batch size and length of texts stay open. The file's metadata hold labels, max_length and r.
    The result is run once and compared with PyTorch.
    """
    folder = find_adapter(adapter)
    classifier = load_trained_classifier(folder, reduction_factor=reduction_factor)
    exported = export_classifier(
        classifier,
        output,
        base_model=read_task(folder).base_model,
        opset=opset,
        int8=int8,
    )
    size = exported.path.stat().st_size
    if as_json:
        print_json(
            {
                "output": str(exported.path),
                "bytes": size,
                "largest_difference": exported.largest_difference,
                "same_classes": exported.agrees,
            }
        )
        return
    messages.print(f"{exported.path}, {size / 1e6:,.1f} MB")
    messages.print(
        f"largest difference from PyTorch in the logits of three rows: "
        f"{exported.largest_difference:.1g}; classes {'agree' if exported.agrees else 'differ'}"
    )
