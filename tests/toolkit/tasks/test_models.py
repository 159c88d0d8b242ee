import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoXConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    WhisperConfig,
)

from conditional_adapters import (
    ConditionalAdapterConfig,
    ConfigError,
    UnsupportedArchitectureError,
    attach,
)
from conditional_adapters.toolkit.tasks.bundle import load_trained_classifier, save_task
from conditional_adapters.toolkit.tasks.models import load_classifier, modality_of


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}
    words = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


SIZES = {
    "vocab_size": 10,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}


def test_texts_are_cut_at_the_positions_a_model_really_has(tmp_path, tokenizer) -> None:
    RobertaModel(RobertaConfig(**SIZES, pad_token_id=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)  # says nothing about a limit
    classifier = load_classifier(str(tmp_path), ["x", "y"])
    assert classifier.max_length == 18  # positions 0 and 1 are taken
    encoded = classifier.encode({"text": ["a b " * 30]})
    batch = classifier.collate([{key: values[0] for key, values in encoded.items()}])
    assert batch["input_ids"].shape == (1, 18)
    with torch.no_grad():
        assert classifier.model(**batch).logits.shape == (1, 2)
    with pytest.warns(UserWarning, match="cut at 18 tokens"):
        assert load_classifier(str(tmp_path), ["x", "y"], max_length=99).max_length == 18
    with pytest.raises(ConfigError, match="at least 3 tokens, got 2"):
        load_classifier(str(tmp_path), ["x", "y"], max_length=2)


def test_a_head_for_other_classes_is_replaced_and_the_rest_kept(tmp_path, tokenizer) -> None:
    original = BertForSequenceClassification(BertConfig(**SIZES, num_labels=7))
    original.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_classifier(str(tmp_path), ["x", "y", "z"]).model
    assert model.classifier.out_features == 3
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    for name, parameter in original.bert.named_parameters():
        assert torch.equal(model.bert.get_parameter(name), parameter)


def test_a_trained_classifier_comes_back_as_it_was(tmp_path, tokenizer) -> None:
    BertForSequenceClassification(BertConfig(**SIZES)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    classifier = load_classifier(str(tmp_path / "base"), ["x", "y"], max_length=9)
    attach(classifier.model, ConditionalAdapterConfig(reduction_factor=2, adapter_dim=3))
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    save_task(classifier, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    loaded = load_trained_classifier(tmp_path / "adapter")
    assert (loaded.labels, loaded.max_length, loaded.modality) == (("x", "y"), 9, "text")
    batch = {"input_ids": torch.tensor([[2, 3, 2, 2, 3]])}
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, classifier.model(**batch).logits)


@pytest.mark.parametrize(
    "config", [WhisperConfig(), GPTNeoXConfig()], ids=lambda config: config.model_type
)
def test_the_modality_is_read_from_the_model(tmp_path, config) -> None:
    config.save_pretrained(tmp_path)
    if config.model_type == "whisper":
        assert modality_of(str(tmp_path)) == modality_of("packaged:whisper") == "audio"
        with pytest.raises(
            UnsupportedArchitectureError, match=r"is a speech recogniser.*recognition"
        ):
            load_classifier(str(tmp_path), ["x", "y"])
    else:
        assert modality_of(str(tmp_path)) == "text"
    assert modality_of("packaged:dinov2") == "image"


def test_one_class_is_not_enough() -> None:
    with pytest.raises(ConfigError, match=r"at least 2 classes, got \['x'\]"):
        load_classifier("packaged:minilm", ["x"])
