"""Conditional classifiers of texts and images with random weights, saved in a folder or not."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import conditional_adapters as ca
from conditional_adapters.model.attachment import adapter_parameters
from conditional_adapters.toolkit.tasks.bundle import save_task
from conditional_adapters.toolkit.tasks.models import Classifier
from tests.helpers.tiny_bert import word_tokenizer
from tests.helpers.tiny_models._builder import ENCODER

LABELS = ("left", "<b>right</b>", "other")


def text_classifier(reduction_factor=(2, 4, 8), **fields) -> Classifier:
    """Make a BERT for texts of the words w0 to w39, with an adapter far from its start."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    config = BertConfig(
        **ENCODER,
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        initializer_range=0.3,
        num_labels=len(LABELS),
    )
    model = BertForSequenceClassification(config).eval()
    return _attach(Classifier(model, tokenizer, "text", LABELS, 32), reduction_factor, fields)


def image_classifier(reduction_factor=(2, 4, 8), **fields) -> Classifier:
    """Make a ViT for images of 24 x 16 pixels, which are 6 x 4 patches."""
    torch.manual_seed(0)
    config = ViTConfig(
        **ENCODER, image_size=(24, 16), patch_size=4, initializer_range=0.3, num_labels=len(LABELS)
    )
    processor = ViTImageProcessor(
        size={"height": 24, "width": 16}, image_mean=[0.2, 0.5, 0.7], image_std=[0.3, 0.5, 0.9]
    )
    model = ViTForImageClassification(config).eval()
    return _attach(Classifier(model, processor, "image", LABELS, None), reduction_factor, fields)


def save_with_base(classifier: Classifier, folder):
    """Write base model and adapter as `coda train` would have; return the adapter's directory."""
    save_task(classifier, folder / "adapter", base_model=str(folder / "base"))
    dense = ca.detach(classifier.model)
    dense.save_pretrained(folder / "base")
    classifier.processor.save_pretrained(folder / "base")
    return folder / "adapter"


def _attach(classifier: Classifier, reduction_factor, fields) -> Classifier:
    config = ca.ConditionalAdapterConfig(reduction_factor=reduction_factor, adapter_dim=4, **fields)
    ca.attach(classifier.model, config)
    randomise_adapter(classifier.model)
    return classifier


def randomise_adapter(model) -> None:
    """Move the routers and adapters of a model far from their start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model, "default"):
            if "router" in name or "adapter." in name:
                parameter.normal_(std=0.3, generator=generator)
