"""Conditional adapters through PEFT's API and through the one in transformers."""

import copy
import json
import logging
import pickle
from dataclasses import fields

import peft
import pytest
import torch
from peft import (
    AutoPeftModel,
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.utils import ModulesToSaveWrapper
from peft.utils.hotswap import hotswap_adapter
from peft.utils.save_and_load import get_base_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    PreTrainedModel,
)

import conditional_adapters as ca
from conditional_adapters.integrations import _peft_modules
from conditional_adapters.integrations import peft as integration
from conditional_adapters.integrations.peft import ConditionalAdapterPeftConfig, register
from conditional_adapters.model.attachment import adapter_parameters, get_attachment
from tests.helpers.gradients import assert_gradients_close, gradients_of
from tests.helpers.tiny_models import LAYERS, TINY_MODELS
from tests.helpers.versions import needs_add_adapter

TINY = TINY_MODELS["bert"]
TENSORS = "adapter_model.safetensors"
INPUTS = TINY.make_inputs("right")


def make_config(**settings) -> ConditionalAdapterPeftConfig:
    return ConditionalAdapterPeftConfig(**{"reduction_factor": 3, "adapter_dim": 5, **settings})


def randomise(model, adapter_name: str = "default"):
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, adapter_name):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def run(model, inputs):
    # transformers leaves tensors where a file has them, and CPU kernels round by alignment.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        return model(**inputs)


def logits(model) -> torch.Tensor:
    return run(model, INPUTS).logits


def trainable(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def base(tmp_path) -> str:
    """Save a base model; what is built from its path has its weights and its name."""
    TINY.build("sdpa").save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def load(base: str) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(base).eval()


@pytest.fixture(params=["peft", "conditional_adapters"])
def saved(request, base, tmp_path) -> tuple[str, torch.Tensor]:
    """Save one adapter with one of the two libraries."""
    model = randomise(get_peft_model(load(base), make_config(task_type="SEQ_CLS")))
    if request.param == "peft":
        model.save_pretrained(tmp_path / "adapter")
    else:
        ca.save_adapter(model, tmp_path / "adapter")
    return str(tmp_path / "adapter"), logits(model)


# The model that get_peft_model makes


def test_outputs_and_gradients_are_those_of_attach() -> None:
    models = []
    for make in (
        lambda model: get_peft_model(model, make_config(task_type="SEQ_CLS")).get_base_model(),
        lambda model: ca.attach(model, make_config().to_config()),
    ):
        torch.manual_seed(0)
        model = make(TINY.build("sdpa"))
        randomise(model)(**INPUTS, labels=torch.tensor([0, 2])).loss.backward()
        models.append(model)
    ours, plain = models
    assert torch.equal(logits(ours), logits(plain))
    assert trainable(ours) == trainable(plain)
    assert [name for name, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]
    found, expected = (gradients_of(model.named_parameters()) for model in models)
    assert_gradients_close(found, expected, atol=0, rtol=0)


def test_no_module_is_wrapped_or_renamed() -> None:
    model = TINY.build("sdpa")
    names = list(model.state_dict())
    for task_type in (None, "SEQ_CLS"):
        wrapped = get_peft_model(model, make_config(task_type=task_type))
        assert [n for n in wrapped.get_base_model().state_dict() if "coda_" not in n] == names
        assert wrapped.unload() is model
        assert list(model.state_dict()) == names


def test_the_base_model_is_seen_through_the_adapters(base) -> None:
    dense = load(base).state_dict()
    seen = get_base_model_state_dict(get_peft_model(load(base), make_config()))
    assert seen.keys() == dense.keys()
    assert all(torch.equal(seen[name], value) for name, value in dense.items())


def test_the_calls_of_the_library_take_the_wrapped_model() -> None:
    model = get_peft_model(TINY.build("sdpa"), make_config())
    assert ca.count_parameters(model).trainable == model.get_nb_trainable_parameters()[0]
    assert ca.estimate_flops(model, batch_size=2, sequence_length=16).ratio > 1
    ca.set_reduction_factor(model, 11)
    with ca.record_routing(model) as routing:
        logits(model)
    assert routing.layers[0].selected_indices.shape[1] == 1


def test_trainable_parameters_are_counted(capsys) -> None:
    model = get_peft_model(TINY.build("sdpa"), make_config(task_type="SEQ_CLS"))
    model.print_trainable_parameters()
    count = sum(p.numel() for _, p in adapter_parameters(model, "default"))
    assert f"trainable params: {count:,d} ||" in capsys.readouterr().out
    assert model.get_nb_trainable_parameters()[0] == count


def test_the_model_status_is_regular() -> None:
    model = get_peft_model(TINY.build("sdpa"), make_config())
    model.add_adapter("other", make_config())
    status = model.get_model_status()
    assert (status.enabled, status.active_adapters) == (True, ["default"])
    assert status.available_adapters == ["default", "other"]
    assert status.peft_types["default"] == "CODA"
    assert status.requires_grad == {"default": True, "other": False}


def test_a_model_with_adapters_can_be_copied_and_pickled() -> None:
    model = randomise(get_peft_model(TINY.build("sdpa"), make_config()))
    before = logits(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin), before)
        with twin.disable_adapter():
            assert not torch.equal(logits(twin), before)
            assert torch.equal(logits(model), before)


def test_a_model_with_adapters_can_be_cast() -> None:
    model = get_peft_model(TINY.build("sdpa").to(torch.bfloat16), make_config())
    parts = {p.dtype for n, p in adapter_parameters(model, "default") if ".coda_adapters." in n}
    assert parts == {torch.float32}
    assert logits(model.to(torch.float64).eval()).dtype == torch.float64


@pytest.mark.compile
def test_a_wrapped_model_compiles_into_one_graph() -> None:
    model = randomise(get_peft_model(TINY.build("sdpa"), make_config()))
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(**INPUTS).logits
    torch.testing.assert_close(compiled, logits(model))


# Files


@pytest.mark.parametrize("name", TINY_MODELS)
def test_every_architecture_is_saved_and_loaded_by_every_library(name, tmp_path) -> None:
    tiny = TINY_MODELS[name]
    dense, inputs = tiny.build(tiny.attention), tiny.inputs()
    dense.name_or_path = ""

    def states(model) -> torch.Tensor:
        values = run(model.eval(), inputs).values()
        return next(value for value in values if isinstance(value, torch.Tensor))

    model = randomise(get_peft_model(copy.deepcopy(dense), make_config()))
    expected = states(model)
    model.save_pretrained(tmp_path / "peft")
    ca.save_adapter(model, tmp_path / "ca")
    ours, theirs = (load_file(tmp_path / path / TENSORS) for path in ("ca", "peft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    fresh = copy.deepcopy(dense)
    ca.load_adapter(fresh, tmp_path / "peft")
    assert torch.equal(states(fresh), expected)
    fresh = PeftModel.from_pretrained(copy.deepcopy(dense), tmp_path / "ca")
    assert torch.equal(states(fresh), expected)
    if type(dense).load_adapter is PreTrainedModel.load_adapter:  # wav2vec2's loads languages
        fresh = copy.deepcopy(dense)
        report = fresh.load_adapter(tmp_path / "peft")
        assert report.missing_keys | report.unexpected_keys | report.mismatched_keys == set()
        assert torch.equal(states(fresh), expected)


def test_all_ways_of_loading_give_the_same_model(saved, base) -> None:
    path, expected = saved
    loaded = load(base)
    ca.load_adapter(loaded, path)
    models = [
        loaded,
        PeftModel.from_pretrained(load(base), path),
        PeftModel.from_pretrained(load(base), path, low_cpu_mem_usage=True),
        AutoPeftModelForSequenceClassification.from_pretrained(path),
        AutoModelForSequenceClassification.from_pretrained(path),
    ]
    for model in models:
        assert torch.equal(logits(model.eval()), expected)
        assert not any(p.is_meta for p in model.parameters())
    assert [bool(trainable(model)) for model in models] == [True, False, False, False, False]
    trained = PeftModel.from_pretrained(load(base), path, is_trainable=True)
    assert {n.removeprefix("base_model.model.") for n in trainable(trained)} == trainable(loaded)


def test_auto_peft_model_finds_the_class_without_a_task(base, tmp_path) -> None:
    model = randomise(get_peft_model(load(base), make_config()))
    model.save_pretrained(tmp_path / "peft")
    ca.save_adapter(model, tmp_path / "ca")
    for path in ("peft", "ca"):
        loaded = AutoPeftModel.from_pretrained(str(tmp_path / path))
        assert torch.equal(logits(loaded), logits(model))


def test_a_folder_may_be_overwritten_by_the_other_library(saved, base) -> None:
    path, _ = saved
    for save in (lambda m: m.save_pretrained(path), lambda m: ca.save_adapter(m, path)):
        model = randomise(PeftModel.from_pretrained(load(base), path, is_trainable=True))
        save(model)
        plain = load(base)
        ca.load_adapter(plain, path)
        assert torch.equal(logits(plain), logits(model))


def test_a_configuration_says_what_attach_would_have_written(base, tmp_path) -> None:
    model = get_peft_model(load(base), make_config(reduction_factor=(2, 4), dense_layers=[0, -1]))
    model.save_pretrained(tmp_path / "peft")
    ca.save_adapter(model, tmp_path / "ca")
    theirs, ours = (
        json.loads((tmp_path / path / "adapter_config.json").read_text()) for path in ("peft", "ca")
    )
    del ours["tensors_sha256"]
    assert {key: theirs[key] for key in ours} == ours
    assert theirs["modules_to_save"] == ["bert.pooler", "classifier"]
    loaded = PeftConfig.from_pretrained(str(tmp_path / "peft"))
    assert isinstance(loaded, ConditionalAdapterPeftConfig)
    assert loaded.to_config().reduction_factor == (2, 4)
    assert loaded.to_config().dense_layers == (0, -1)


def test_the_other_adapters_are_saved_in_folders_of_their_own(base, tmp_path) -> None:
    model = get_peft_model(load(base), make_config())
    model.add_adapter("other", make_config(adapter_dim=7))
    randomise(model), randomise(model, "other")
    model.save_pretrained(tmp_path)
    for name, path in (("default", tmp_path), ("other", tmp_path / "other")):
        plain = load(base)
        ca.load_adapter(plain, path)
        model.set_adapter(name)
        assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda t: t.pop("base_model.model.classifier.bias"), KeyError, "classifier.bias"),
        (
            lambda t: t.update(more=torch.ones(1)),
            ca.CheckpointError,
            "1 tensors .* not have: more",
        ),
        (
            lambda t: t.update({"base_model.model.classifier.bias": torch.ones(9)}),
            RuntimeError,
            r"size mismatch for .*classifier",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_an_error(saved, base, change, error, message) -> None:
    path, _ = saved
    tensors = load_file(f"{path}/{TENSORS}")
    change(tensors)
    save_file(tensors, f"{path}/{TENSORS}", metadata={"format": "pt"})
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(load(base), path)


def test_an_adapter_for_another_model_is_refused(saved) -> None:
    path, _ = saved
    with pytest.raises(ca.CheckpointError, match=r"for a bert model .* this is a vit"):
        PeftModel.from_pretrained(TINY_MODELS["vit"].build("sdpa"), path)
    with pytest.raises(ca.CheckpointError, match="BertForSequenceClassification model"):
        PeftModel.from_pretrained(TINY.build("sdpa").bert, path)


# Several adapters


def test_adapters_with_different_r_are_added_switched_and_deleted(base) -> None:
    model = randomise(get_peft_model(load(base), make_config(reduction_factor=3)))
    model.add_adapter("coarse", make_config(reduction_factor=11, adapter_dim=7))
    assert model.active_adapters == ["default"]
    randomise(model, "coarse")
    outputs = {}
    for name, width in (("default", 4), ("coarse", 1)):
        model.set_adapter(name)
        with ca.record_routing(model) as routing:
            outputs[name] = logits(model)
        assert routing.layers[0].selected_indices.shape[1] == width
        assert all(f".{name}." in parameter for parameter in trainable(model))
    assert not torch.equal(outputs["default"], outputs["coarse"])
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("coarse")
    assert model.active_adapters == ["default"]
    assert torch.equal(logits(model), outputs["default"])
    assert not [name for name in model.state_dict() if "coarse" in name]
    model.delete_adapter("default")  # without any adapter, the model is the dense one
    assert torch.equal(logits(model.base_model), logits(load(base)))
    model.add_adapter("again", make_config())
    model.set_adapter("again")
    assert trainable(model)


def test_an_adapter_is_loaded_beside_a_trained_one(saved, base) -> None:
    path, expected = saved
    model = randomise(get_peft_model(load(base), make_config(task_type="SEQ_CLS")))
    before, training = logits(model), trainable(model)
    model.load_adapter(path, adapter_name="loaded")
    assert torch.equal(logits(model), before)
    assert trainable(model) == training
    model.set_adapter("loaded", inference_mode=True)
    assert torch.equal(logits(model), expected)
    assert not trainable(model)


def test_a_disabled_adapter_leaves_the_dense_model_and_what_was_trainable(base) -> None:
    for inference_mode in (False, True):
        model = get_peft_model(load(base), make_config(inference_mode=inference_mode))
        before, training = logits(randomise(model)), trainable(model)
        assert bool(training) is not inference_mode
        with model.disable_adapter():
            assert torch.equal(logits(model), logits(load(base)))
            model.set_adapter("default", inference_mode=inference_mode)
            assert torch.equal(logits(model), logits(load(base)))
        assert torch.equal(logits(model), before)
        assert trainable(model) == training


def test_only_one_adapter_is_active_at_a_time(base) -> None:
    model = get_peft_model(load(base), make_config())
    model.add_adapter("other", make_config())
    with pytest.raises(ca.AttachmentError, match=r"one at a time, got \['default', 'other'\]"):
        model.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize("name", ["c", "co", "coda", "en", "layer_", "0", "conditional"])
def test_a_name_may_be_part_of_other_names(name, base, tmp_path) -> None:
    if name == "0":
        with pytest.raises(ca.ConfigError, match="'0' is also the name of a module"):
            get_peft_model(load(base), make_config(), adapter_name=name)
        return
    model = randomise(get_peft_model(load(base), make_config(), adapter_name=name), name)
    model.add_adapter(f"{name}2", make_config())
    model.save_pretrained(tmp_path, selected_adapters=[name])
    loaded = PeftModel.from_pretrained(load(base), tmp_path / name, adapter_name=name)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("name", ["encoder", "weight", "router", "classifier", "coda_copies"])
def test_a_name_that_is_an_element_of_paths_is_refused(name, base) -> None:
    model = load(base)
    with pytest.raises(ca.ConfigError, match=f"'{name}' is also the name of a module or param"):
        get_peft_model(model, make_config(), adapter_name=name)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_reserved_names_are_those_of_the_parts() -> None:
    model = ca.attach(TINY.build("sdpa"), make_config().to_config(), adapter_name="unique")
    names = [name for name, _ in adapter_parameters(model, "unique") if ".coda_adapters." in name]
    parts = {part for name in names for part in name.partition(".coda_")[2].split(".")}
    assert {f"coda_{p}" if p == "adapters" else p for p in parts} - {"unique"} == (
        integration._RESERVED_NAMES - {"coda_copies"}
    )


# Heads


@pytest.mark.parametrize(
    "settings, heads",
    [
        ({}, ["bert.pooler", "classifier"]),
        ({"task_type": "SEQ_CLS"}, ["bert.pooler", "classifier"]),
        ({"modules_to_save": ()}, []),
        ({"modules_to_save": ["classifier"]}, ["classifier"]),
        ({"modules_to_save": ["pooler"]}, ["bert.pooler"]),
        ({"modules_to_save": ["pooler"], "task_type": "SEQ_CLS"}, ["bert.pooler", "classifier"]),
        ({"modules_to_save": [], "task_type": "SEQ_CLS"}, ["bert.pooler", "classifier"]),
    ],
)
def test_each_head_has_one_owner(settings, heads, base) -> None:
    config = make_config(**settings)
    for _ in range(2):  # a configuration may be used again
        model = get_peft_model(load(base), config)
        assert list(get_attachment(model).heads["default"]) == heads
        assert model.peft_config["default"].modules_to_save == heads
        theirs = {type(m).__name__ for m in model.modules() if type(m) is ModulesToSaveWrapper}
        assert not theirs
        config.base_model_name_or_path = None  # PEFT has filled it in and would complain


def test_a_head_of_two_parts_is_not_wrapped_a_second_time() -> None:
    dense = TINY_MODELS["distilbert"].build("sdpa")
    dense = AutoModelForSequenceClassification.from_config(dense.config)
    for modules_to_save in (None, ["classifier"]):
        config = make_config(task_type="SEQ_CLS", modules_to_save=modules_to_save)
        model = get_peft_model(copy.deepcopy(dense), config)
        assert not [name for name in model.state_dict() if "original_module" in name]
        assert set(get_attachment(model).heads["default"]) == {"pre_classifier", "classifier"}


def test_heads_that_the_model_does_not_have_are_named() -> None:
    with pytest.raises(ca.ConfigError, match="names 'head', which is no module"):
        get_peft_model(TINY.build("sdpa"), make_config(modules_to_save=["head"]))
    with pytest.raises(ca.ConfigError, match=r"named classifier or score, but this BertModel has"):
        get_peft_model(TINY.build("sdpa").bert, make_config(task_type="SEQ_CLS"))


# transformers' own interface


@needs_add_adapter
def test_transformers_adds_switches_and_deletes_adapters(base) -> None:
    model, dense = load(base), logits(load(base))
    names = list(model.state_dict())
    model.add_adapter(make_config())
    before = logits(randomise(model))
    model.add_adapter(make_config(reduction_factor=2), adapter_name="other")
    assert model.active_adapters() == ["other"]
    assert all(".other." in name for name in trainable(model))
    model.set_adapter("default")
    assert torch.equal(logits(model), before)
    model.disable_adapters()
    assert torch.equal(logits(model), dense)
    model.enable_adapters()
    assert torch.equal(logits(model), before)
    model.delete_adapter("other")
    assert torch.equal(logits(model), before)
    model.delete_adapter("default")
    assert list(model.state_dict()) == names
    assert torch.equal(logits(model), dense)
    model.add_adapter(make_config())
    assert trainable(model)


@needs_add_adapter
def test_transformers_saves_what_all_libraries_load(base, tmp_path) -> None:
    model = load(base)
    model.add_adapter(make_config(), adapter_name="mine")
    randomise(model, "mine")
    model.save_pretrained(tmp_path / "adapter")
    plain = load(base)
    ca.load_adapter(plain, tmp_path / "adapter")
    wrapped = PeftModel.from_pretrained(load(base), tmp_path / "adapter")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    for loaded in (plain, wrapped, again):
        assert torch.equal(logits(loaded.eval()), logits(model))


def test_loading_through_transformers_reports_nothing(saved, base, caplog, monkeypatch) -> None:
    path, expected = saved
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING", logger="transformers"):
        model = AutoModelForSequenceClassification.from_pretrained(path)
        report = load(base).load_adapter(path)
        assert not caplog.records
        logging.getLogger("transformers.integrations.peft").warning("seen")
        assert caplog.records
    assert report.missing_keys | report.unexpected_keys | report.mismatched_keys == set()
    assert torch.equal(logits(model.eval()), expected)


@needs_add_adapter
def test_a_second_adapter_from_transformers_leaves_the_first_alone(saved, base) -> None:
    path, expected = saved
    model = load(base)
    model.add_adapter(make_config())
    before = logits(randomise(model))
    report = model.load_adapter(path, adapter_name="second")
    # transformers counts the adapters that were there among the missing, LoRA's as well as ours.
    assert not [key for key in report.missing_keys if ".second." in key]
    assert torch.equal(logits(model), expected)
    model.set_adapter("default")
    assert torch.equal(logits(model), before)


@needs_add_adapter
def test_a_failed_addition_leaves_the_adapters_that_were_there(base) -> None:
    model = load(base)
    model.add_adapter(make_config())
    before = logits(randomise(model))
    with pytest.raises(ca.ConfigError, match="dense_layers contains 9"):
        model.add_adapter(make_config(dense_layers=[9]), adapter_name="other")
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


# Training


@pytest.mark.parametrize("name", ["default", "mine"])
def test_trainer_saves_resumes_and_restores_the_best(name, base, tmp_path) -> None:
    from transformers import Trainer, TrainingArguments, set_seed

    rows = [{k: v[i] for k, v in INPUTS.items()} | {"labels": torch.tensor(i)} for i in (0, 1)] * 4

    def train(resume: str | None, steps: int) -> tuple[Trainer, PeftModel]:
        set_seed(0)
        model = get_peft_model(load(base), make_config(task_type="SEQ_CLS"), adapter_name=name)
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=2,
            max_steps=steps,
            lr_scheduler_type="constant",
            save_steps=2,
            eval_steps=2,
            eval_strategy="steps",
            load_best_model_at_end=True,
            learning_rate=0.01,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            activation_checkpointing=True,
        )
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, model.eval()

    trainer, straight = train(None, 4)
    folder = "" if name == "default" else name  # PEFT's layout
    files = {path.name for path in (tmp_path / "run/checkpoint-2" / folder).iterdir()}
    assert {TENSORS, "adapter_config.json"} <= files
    everything = {path.name for path in (tmp_path / "run/checkpoint-2").rglob("*")}
    assert not {"model.safetensors", "pytorch_model.bin"} & everything
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert trainer.state.log_history[-1]["train_loss"] < 1.1
    _, resumed = train(str(tmp_path / "run/checkpoint-2"), 4)
    torch.testing.assert_close(logits(resumed), logits(straight))
    plain = load(base)
    ca.load_adapter(plain, tmp_path / "run/checkpoint-4" / folder)
    assert torch.equal(logits(plain), logits(resumed))


# What cannot be done


def test_merging_is_refused_with_the_reason(base) -> None:
    model = get_peft_model(load(base), make_config())
    for merge in (model.merge_and_unload, model.merge_adapter, model.unmerge_adapter):
        with pytest.raises(ca.AttachmentError, match="depend on the input, so no fixed weights"):
            merge()


@needs_add_adapter
def test_other_methods_are_refused(base) -> None:
    lora = LoraConfig(r=2, target_modules=["query"])
    with pytest.raises(ValueError, match="different peft types"):
        get_peft_model(load(base), make_config()).add_adapter("other", lora)
    with pytest.raises(ValueError, match="CODA"):
        get_peft_model(load(base), make_config(), mixed=True)
    model = load(base)
    model.add_adapter(lora, adapter_name="other")
    with pytest.raises(ca.AttachmentError, match=r"another PEFT method .*call attach"):
        model.add_adapter(make_config(), adapter_name="mine")
    assert list(model.peft_config) == ["other"]


def test_a_model_that_attach_was_called_on_is_refused(base) -> None:
    model = ca.attach(load(base), make_config().to_config())
    with pytest.raises(ca.AttachmentError, match="adapters that PEFT does not know"):
        get_peft_model(model, make_config())


@needs_add_adapter
def test_hotswapping_is_refused_and_load_adapter_does_it(saved, base) -> None:
    path, expected = saved
    model = randomise(get_peft_model(load(base), make_config(task_type="SEQ_CLS")))
    with pytest.raises(ValueError, match="LORA"):
        hotswap_adapter(model, path, adapter_name="default")
    parameters = dict(model.named_parameters())
    ca.load_adapter(model, path)
    assert torch.equal(logits(model), expected)
    assert all(parameters[name] is p for name, p in model.named_parameters())
    plain = load(base)
    plain.add_adapter(make_config())
    with pytest.raises(ValueError, match="only supported for LoRA"):
        plain.load_adapter(path, adapter_name="default", hotswap=True)


def test_detach_removes_the_switch_as_well(base) -> None:
    wrapped = get_peft_model(load(base), make_config())
    model = ca.detach(wrapped.get_base_model())
    assert _peft_modules.find_switch(model) is None
    assert torch.equal(logits(model), logits(load(base)))


# Configuration and registration


def test_the_configuration_has_the_fields_of_ours() -> None:
    ours = {field.name: field.default for field in fields(ca.ConditionalAdapterConfig)}
    theirs = {field.name: field.default for field in fields(ConditionalAdapterPeftConfig)}
    assert {name: theirs[name] for name in ours} == ours
    assert ConditionalAdapterPeftConfig().to_config() == ca.ConditionalAdapterConfig()


def test_a_bad_field_is_refused_as_in_ours() -> None:
    with pytest.raises(ca.ConfigError, match=r"reduction_factor must be .*got 0\.5"):
        ConditionalAdapterPeftConfig(reduction_factor=0.5)
    with pytest.raises(ValueError, match="Invalid task type"):
        ConditionalAdapterPeftConfig(task_type="CLASSIFY")


def test_registering_again_changes_nothing_and_a_namesake_is_an_error(monkeypatch) -> None:
    register()
    assert integration.PEFT_TYPE_TO_CONFIG_MAPPING["CODA"] is ConditionalAdapterPeftConfig
    monkeypatch.setitem(integration.PEFT_TYPE_TO_CONFIG_MAPPING, "CODA", LoraConfig)
    with pytest.raises(ImportError, match=r"already has a method 'CODA' \(LoraConfig\)"):
        register()


def test_a_peft_without_the_hooks_is_named(monkeypatch) -> None:
    monkeypatch.setattr(integration, "BaseTuner", object)
    with pytest.raises(ImportError, match=rf"PEFT {peft.__version__} saves only .*peft>=0\.21"):
        register()


def test_the_state_dict_is_that_of_the_file(base) -> None:
    model = get_peft_model(load(base), make_config())
    tensors = get_peft_model_state_dict(model)
    assert len([key for key in tensors if ".router." in key]) == LAYERS
    assert not [key for key in tensors if "default" in key]
