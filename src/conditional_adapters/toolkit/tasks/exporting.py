"""Export of a trained classifier to an ONNX file, with its processor beside it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..._version import __version__
from ...model.attachment import active_adapter, conditional_layers
from ._collate import examples_of
from ._extras import import_extra
from .models import Classifier

# Two texts of different lengths for tracing, and three others for the check.
_TEXTS = ("one two three four five six seven eight", "one two three")
_OTHER_TEXTS = ("a", "a longer text, and then some more of it", "another text")


@dataclass(frozen=True)
class ExportedClassifier:
    """An ONNX file and its check.

    Attributes:
        path: The file. The tokenizer or image processor is in its folder.
        largest_difference: Between the logits of PyTorch and of ONNX Runtime, on a small batch of
            another size than the traced one.
        agrees: Whether both predict the same classes there.
    """

    path: Path
    largest_difference: float
    agrees: bool


def export_classifier(
    classifier: Classifier,
    path: str | os.PathLike[str],
    *,
    base_model: str,
    opset: int = 20,
    int8: bool = False,
) -> ExportedClassifier:
    """Write a classifier to an ONNX file whose input is the output of its processor.

    The file's metadata hold `labels` (JSON), `modality`, `max_length` (of texts), `base_model`,
    `reduction_factor` and `library_version`.

    Args:
        classifier: A classifier whose model is conditional, in float32.
        path: The file; its folder is created if needed and gets the tokenizer or image processor.
        base_model: Name of the pretrained model, for the metadata.
        opset: Version of the ONNX operators.
        int8: Quantise linear layers to 8 bits.

    Returns:
        The file and its check against PyTorch.

    Raises:
        ConfigError: If an argument is out of range, the model does not export, or onnx,
            onnxruntime or onnxscript is not installed.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        import_extra(package, extra="onnx", purpose="exporting")
    from ...integrations.onnx import export_onnx, run_onnx

    name = active_adapter(classifier.model)
    factors = {
        layer.coda_part(name).reduction_factor for layer in conditional_layers(classifier.model)
    }
    metadata = {
        "labels": json.dumps(classifier.labels),
        "modality": classifier.modality,
        "base_model": base_model,
        "reduction_factor": f"{factors.pop():g}",
        "library_version": __version__,
    }
    if classifier.max_length is not None:
        metadata["max_length"] = str(classifier.max_length)
    file = export_onnx(
        classifier.model,
        path,
        sample_inputs=_sample_inputs(classifier, _TEXTS),
        opset=opset,
        int8=int8,
        metadata=metadata,
    )
    classifier.processor.save_pretrained(file.parent)
    batch = _sample_inputs(classifier, _OTHER_TEXTS)
    with torch.inference_mode():
        expected = classifier.model(**batch).logits
    found = torch.from_numpy(run_onnx(file, batch))
    return ExportedClassifier(
        file,
        largest_difference=(found - expected).abs().max().item(),
        agrees=torch.equal(found.argmax(-1), expected.argmax(-1)),
    )


def _sample_inputs(classifier: Classifier, texts: tuple[str, ...]) -> dict[str, Tensor]:
    """Encode one example per text, or as many images."""
    if classifier.modality == "text":
        encoded = classifier.encode({"text": texts})
    else:
        from PIL import Image

        shades = [Image.new("RGB", (64, 64), (80 * i, 40, 90)) for i in range(len(texts))]
        encoded = classifier.encode({"image": shades})
    return classifier.collate(examples_of(encoded))
