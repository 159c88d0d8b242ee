"""Documents with their routing, ready to be drawn."""

from collections.abc import Sequence

import torch

from .._attachment import conditional_layers
from ..analysis import record_routing
from ..errors import ConfigError
from ..visualisation import RoutedDocument, words_from_tokens
from .models import Classifier


def route_documents(
    classifier: Classifier, texts: Sequence[str], gold: Sequence[str] | None = None
) -> tuple[list[RoutedDocument], int]:
    """Classify texts and count for each word the layers that processed it.

    Args:
        classifier: A conditional text classifier.
        texts: Documents.
        gold: Their right classes, for the titles.

    Returns:
        The documents for `plot_token_map`, and the number of routed layers.

    Raises:
        ConfigError: If the classifier is none of texts, or processes every token in every layer.
    """
    if classifier.modality != "text":
        raise ConfigError("a map of words needs a text classifier, got one of images.")
    documents = []
    num_layers = 0
    for index, text in enumerate(texts):
        encoded = classifier.processor(
            text,
            truncation=True,
            max_length=classifier.max_length,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = [tuple(pair) for pair in encoded.pop("offset_mapping")[0].tolist()]
        with torch.inference_mode(), record_routing(classifier.model) as routing:
            predicted = int(classifier.model(**encoded).logits.argmax())
        num_layers = sum(decision is not None for decision in routing.layers)
        if num_layers == 0:
            raise ConfigError(
                f"all {len(conditional_layers(classifier.model))} layers process every token. Set "
                "a reduction factor above 1."
            )
        words, counts = words_from_tokens(offsets, text, routing.layer_counts()[0].tolist())
        title = f"predicted {classifier.labels[predicted]}"
        if gold is not None:
            title += f", gold {gold[index]}"
        documents.append(RoutedDocument(title=title, words=words, layer_counts=counts))
    return documents, num_layers
