"""Routing maps of texts and images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...analysis import RoutingRecord, record_routing
from ...analysis._modes import evaluating, keeping_reduction_factor
from ...errors import ConfigError
from ...model.attach import set_reduction_factor
from ...model.attachment import conditional_layers
from ...model.structure import find_sites
from ..visualisation import RoutedDocument, RoutedImage, RoutedRow, RoutedRun, words_from_tokens
from ._collate import examples_of
from ._routing import factors_with_a_choice, routed_layers
from .models import Classifier


def route_documents(
    classifier: Classifier, texts: Sequence[str], gold: Sequence[str] | None = None
) -> tuple[list[RoutedDocument], int]:
    """Classify texts and count for each word the layers that processed it."""
    if classifier.modality != "text":
        raise ConfigError("a token map needs a text classifier, got an image classifier.")
    documents = []
    num_layers = 0
    for index, text in enumerate(texts):
        encoded = _encode(classifier, text)
        probabilities, routing = _forward(classifier, encoded)
        num_layers = len(routed_layers(classifier.model, routing))
        title = _title(classifier, probabilities, None if gold is None else gold[index])
        documents.append(_document(encoded, text, routing, title))
    return documents, num_layers


def route_rows(
    classifier: Classifier,
    contents: Sequence[Any],
    factors: Iterable[float],
    gold: Sequence[str] | None = None,
) -> list[RoutedRow]:
    """Classify texts or images at r = 1 and at several reduction factors, and record the routing.

    The mode and the reduction factor of the model are restored.

    Args:
        classifier: A classifier whose model is conditional.
        contents: Texts, or PIL images.
        factors: Reduction factors above 1.
        gold: The correct classes.

    Returns:
        One row per content, with one run per factor, ascending.

    Raises:
        ConfigError: If a factor is not above 1, no layer is routed, the tokenizer is not a fast
            one, or the tokens of images are not a grid of patches.
        AttachmentError: If the model has no active adapter.
    """
    ordered = factors_with_a_choice(factors)
    with evaluating(classifier.model), keeping_reduction_factor(classifier.model):
        return [
            _route_row(classifier, content, ordered, index, None if gold is None else gold[index])
            for index, content in enumerate(contents)
        ]


@dataclass(frozen=True)
class _Encoded:
    """Model input of one example, and for texts the positions of its tokens."""

    inputs: Mapping[str, Tensor]
    offsets: list[tuple[int, int]]


def _route_row(
    classifier: Classifier,
    content: Any,  # noqa: ANN401
    factors: Sequence[float],
    index: int,
    gold: str | None,
) -> RoutedRow:
    encoded = _encode(classifier, content)
    set_reduction_factor(classifier.model, 1)
    dense, _ = _forward(classifier, encoded)
    runs = []
    for factor in factors:
        set_reduction_factor(classifier.model, factor)
        probabilities, routing = _forward(classifier, encoded)
        routed_layers(classifier.model, routing)
        title = f"r = {factor:g}: {_title(classifier, probabilities, gold)}"
        view = (
            _document(encoded, content, routing, title)
            if classifier.modality == "text"
            else _image(classifier, encoded, routing, title)
        )
        processed = routing.processed_tokens()[:, 0].cpu().numpy()
        runs.append(
            RoutedRun(
                reduction_factor=factor,
                probabilities=probabilities.tolist(),
                processed=processed,
                view=view,
            )
        )
    shown = runs[0].view
    num_cut_words = 0
    if isinstance(shown, RoutedDocument):
        num_cut_words = len(content.split()) - len(shown.words)
    num_tokens = runs[0].processed.shape[1]
    return RoutedRow(
        heading=f"{classifier.modality.capitalize()} {index + 1}",
        gold=gold,
        tokens=_token_names(classifier, encoded, num_tokens),
        is_routed=[decision is not None for decision in routing.layers],
        dense_probabilities=dense.tolist(),
        runs=runs,
        num_cut_words=num_cut_words,
    )


def _encode(classifier: Classifier, content: Any) -> _Encoded:  # noqa: ANN401
    if classifier.modality == "image":
        inputs = classifier.collate(examples_of(classifier.encode({"image": [content]})))
        return _Encoded(_on_device(classifier, inputs), [])
    if not classifier.processor.is_fast:
        raise ConfigError(
            f"a token map needs a fast tokenizer, got {type(classifier.processor).__name__}. Save "
            "one with the model (tokenizer.json)."
        )
    encoded = classifier.processor(
        content,
        truncation=True,
        max_length=classifier.max_length,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets = [(start, end) for start, end in encoded.pop("offset_mapping")[0].tolist()]
    return _Encoded(_on_device(classifier, encoded), offsets)


def _on_device(classifier: Classifier, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(classifier.model.device) for name, tensor in inputs.items()}


def _forward(
    classifier: Classifier, encoded: _Encoded
) -> tuple[Float[np.ndarray, " classes"], RoutingRecord]:
    with torch.inference_mode(), record_routing(classifier.model) as routing:
        logits = classifier.model(**encoded.inputs).logits[0]
    return logits.float().softmax(-1).cpu().numpy(), routing


def _title(
    classifier: Classifier, probabilities: Float[np.ndarray, " classes"], gold: str | None
) -> str:
    title = f"predicted {classifier.labels[int(probabilities.argmax())]}"
    return title if gold is None else f"{title}, gold {gold}"


def _document(encoded: _Encoded, text: str, routing: RoutingRecord, title: str) -> RoutedDocument:
    words, counts = words_from_tokens(encoded.offsets, text, routing.layer_counts()[0].tolist())
    return RoutedDocument(title=title, words=words, layer_counts=counts)


def _image(
    classifier: Classifier, encoded: _Encoded, routing: RoutingRecord, title: str
) -> RoutedImage:
    """Arrange the counts of the patches as in the image."""
    config: Any = find_sites(classifier.model).config
    spec = conditional_layers(classifier.model)[0].coda_spec
    counts = routing.layer_counts()[0].cpu().numpy().astype(np.float64)
    patches = counts[spec.num_prefix_tokens : len(counts) - spec.num_suffix_tokens]
    pixels = encoded.inputs["pixel_values"][0]
    size = config.patch_size
    patch_height, patch_width = size if isinstance(size, list | tuple) else (size, size)
    rows, columns = pixels.shape[-2] // patch_height, pixels.shape[-1] // patch_width
    if rows * columns != len(patches):
        raise ConfigError(
            f"the {len(patches)} tokens of a {config.model_type!r} model are not a grid of {rows} "
            f"x {columns} patches, so they cannot be drawn over the image."
        )
    covered = pixels[:, : rows * patch_height, : columns * patch_width]
    return RoutedImage(
        title=title,
        pixels=_picture(classifier.processor, covered),
        layer_counts=patches.reshape(rows, columns),
    )


def _picture(
    processor: Any,  # noqa: ANN401
    pixel_values: Float[Tensor, "channels height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Convert model input back to an image: undo normalisation and rescaling of the processor."""
    values = pixel_values.float().cpu()
    if processor.do_normalize:
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        values = values * std[:, None, None] + mean[:, None, None]
    if processor.do_rescale:
        values = values / processor.rescale_factor
    return values.round().clamp(0, 255).byte().expand(3, -1, -1).permute(1, 2, 0).numpy()


def _token_names(classifier: Classifier, encoded: _Encoded, num_tokens: int) -> list[str]:
    if classifier.modality == "image":
        return [""] * num_tokens
    ids = encoded.inputs["input_ids"][0].tolist()
    names: list[str] = classifier.processor.convert_ids_to_tokens(ids)
    return names
