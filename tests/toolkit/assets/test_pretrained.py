"""Weights become a model: what has to fit, what may be new, and what stays quiet."""

import logging

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperModel,
)
from transformers.utils import logging as transformers_logging

from conditional_adapters.errors import AssetError, ConfigError
from conditional_adapters.toolkit.assets._pretrained import Pretrained, build, configure

CONFIG = BertConfig(
    vocab_size=11,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=9,
)


@pytest.fixture
def pretrained() -> Pretrained:
    return Pretrained(config=CONFIG, state_dict=BertModel(CONFIG).state_dict())


def load(pretrained, model_class, dtype=torch.float32, **overrides):
    config = configure(pretrained, "packaged:tiny", dtype, overrides)
    return build(model_class, config, pretrained)


@pytest.mark.parametrize("model_class", [AutoModel, BertModel])
def test_the_backbone_alone_gets_every_tensor(pretrained, model_class):
    model = load(pretrained, model_class)
    assert type(model) is BertModel
    torch.testing.assert_close(dict(model.state_dict()), pretrained.state_dict, rtol=0, atol=0)


@pytest.mark.parametrize(
    "model_class",
    [AutoModelForSequenceClassification, BertForSequenceClassification, BertForTokenClassification],
)
def test_a_model_with_a_head_gets_the_backbone_and_the_labels(pretrained, model_class):
    labels = ["a", "b", "c", "d", "e"]
    id2label, label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    model = load(pretrained, model_class, num_labels=5, id2label=id2label, label2id=label2id)
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(tensor, pretrained.state_dict[name]), name
    assert model.classifier.weight.shape == (5, 8)
    # Fresh: normal with the standard deviation of the configuration, which is 0.02.
    assert 0.01 < model.classifier.weight.std() < 0.03
    assert model.config.num_labels == 5
    assert model.config.id2label == id2label
    assert model.config.label2id == label2id


def test_the_model_is_in_evaluation_mode_and_says_where_it_comes_from(pretrained):
    model = load(pretrained, AutoModel)
    assert not any(module.training for module in model.modules())
    assert model.config._name_or_path == model.name_or_path == "packaged:tiny"


def test_the_configuration_of_the_reader_is_not_changed(pretrained):
    before = pretrained.config.to_dict()
    load(pretrained, AutoModelForSequenceClassification, num_labels=5)
    assert pretrained.config.to_dict() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_dtype_and_attention_are_those_asked_for(pretrained, dtype):
    model = load(pretrained, AutoModel, dtype=dtype, attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert torch.equal(
        model.pooler.dense.weight, pretrained.state_dict["pooler.dense.weight"].bfloat16()
    )


def test_a_tied_output_layer_stays_tied(pretrained):
    model = load(pretrained, BertForMaskedLM)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert torch.equal(
        model.cls.predictions.decoder.weight,
        pretrained.state_dict["embeddings.word_embeddings.weight"],
    )


def test_a_model_may_lack_a_whole_part_of_the_file():
    config = WhisperConfig(
        vocab_size=20,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_source_positions=10,
        max_target_positions=10,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    pretrained = Pretrained(config=config, state_dict=WhisperModel(config).state_dict())
    model = load(pretrained, WhisperForAudioClassification, num_labels=3)
    assert torch.equal(model.encoder.conv1.weight, pretrained.state_dict["encoder.conv1.weight"])
    assert model.classifier.out_features == 3
    del pretrained.state_dict["encoder.conv1.bias"]
    with pytest.raises(AssetError, match=r"missing \['encoder\.conv1\.bias'\]"):
        load(pretrained, WhisperForAudioClassification)


@pytest.mark.parametrize("model_class", [BertModel, BertForSequenceClassification])
@pytest.mark.parametrize("key", ["embeddings.LayerNorm.bias", "encoder.layer.1.output.dense.bias"])
def test_a_missing_backbone_tensor_is_an_error(pretrained, model_class, key):
    del pretrained.state_dict[key]
    with pytest.raises(AssetError, match=rf"{model_class.__name__}: missing \['{key}'\]"):
        load(pretrained, model_class)


@pytest.mark.parametrize("model_class", [BertModel, BertForSequenceClassification])
def test_a_missing_part_of_the_backbone_is_not_taken_for_a_head(pretrained, model_class):
    for key in ("pooler.dense.weight", "pooler.dense.bias"):
        del pretrained.state_dict[key]
    with pytest.raises(AssetError, match=r"missing \['pooler\.dense\.weight', 'pooler"):
        load(pretrained, model_class)


@pytest.mark.parametrize("model_class", [BertModel, BertForSequenceClassification])
def test_a_backbone_tensor_of_another_shape_is_an_error(pretrained, model_class):
    pretrained.state_dict["pooler.dense.bias"] = torch.zeros(7)
    with pytest.raises(AssetError, match=r"pooler\.dense\.bias.*\[7\].*\[8\]"):
        load(pretrained, model_class)


@pytest.mark.parametrize(
    "layers, finding",
    [(1, r"missing \[\], left over \['encoder\.layer\.1"), (3, r"missing \['encoder\.layer\.2")],
)
def test_another_number_of_layers_is_an_error(pretrained, layers, finding):
    with pytest.raises(AssetError, match=finding):
        load(pretrained, AutoModel, num_hidden_layers=layers)


def test_weights_of_another_architecture_are_an_error(pretrained):
    strangers = Pretrained(config=CONFIG, state_dict={"body.weight": torch.zeros(2)})
    with pytest.raises(AssetError, match="do not fit BertModel"):
        load(strangers, AutoModel)


def test_an_unknown_keyword_is_an_error_that_names_it(pretrained):
    with pytest.raises(ConfigError, match=r"device_map, num_lables cannot be set on packaged:tiny"):
        load(pretrained, AutoModel, device_map="cpu", num_lables=5)


def test_a_fresh_head_is_not_worth_a_warning(pretrained, capfd):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = transformers_logging.get_logger("transformers")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        load(
            pretrained,
            AutoModelForSequenceClassification,
            num_labels=5,
            id2label={i: str(i) for i in range(5)},
            label2id={str(i): i for i in range(5)},
        )
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert not [record.getMessage() for record in records]
    assert capfd.readouterr() == ("", "")
