import hashlib
import json
import os
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import conditional_adapters as ca
from conditional_adapters.checkpoint import files
from conditional_adapters.checkpoint.save_load import set_saved_reduction_factor
from conditional_adapters.model.attachment import (
    adapter_parameters,
    conditional_layers,
    get_attachment,
)
from tests.helpers.tiny_models import TINY_MODELS

CONFIG = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5)


def trained_bert(seed: int = 0):
    torch.manual_seed(seed)
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"), CONFIG)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, "default"):
            parameter.normal_()
    return model


def values(model):
    return {n: p.detach().clone() for n, p in adapter_parameters(model, "default")}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def saved(tmp_path):
    return ca.save_adapter(trained_bert(), tmp_path / "adapter")


def rewrite(directory, change) -> None:
    """Change the tensors of a saved adapter and make its configuration accept the file."""
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    config = json.loads((directory / "adapter_config.json").read_text())
    del config["tensors_sha256"]
    (directory / "adapter_config.json").write_text(json.dumps(config))


def test_the_files_are_laid_out_as_peft_lays_them_out(saved) -> None:
    assert set(os.listdir(saved)) == {"adapter_config.json", "adapter_model.safetensors"}
    names = set(load_file(saved / "adapter_model.safetensors"))
    layer = "base_model.model.bert.encoder.layer.0."
    assert f"{layer}coda_adapters.router.weight" in names
    assert f"{layer}coda_adapters.adapter.down" in names
    assert f"{layer}output.LayerNorm.weight" in names
    assert "base_model.model.classifier.weight" in names
    assert not [name for name in names if "default" in name]
    config = ca.read_adapter_config(saved)
    assert config["peft_type"] == "CODA"
    assert config["modules_to_save"] == ["bert.pooler", "classifier"]
    assert config["reduction_factor"] == 3


def test_the_files_have_the_permissions_of_any_new_file(saved) -> None:
    (saved / "other").touch()
    assert {path.stat().st_mode for path in saved.iterdir()} == {(saved / "other").stat().st_mode}


def test_an_adapter_may_be_loaded_under_another_name_beside_others(saved) -> None:
    model = trained_bert(seed=1)
    before = values(model)
    ca.load_adapter(model, saved, adapter_name="other")
    assert same(values(model), before)
    loaded = {n.replace(".other.", ".default."): p for n, p in adapter_parameters(model, "other")}
    assert same(loaded, values(trained_bert()))


def test_loading_over_an_elastic_adapter_ends_its_sampling(saved, tmp_path) -> None:
    model = TINY_MODELS["bert"].build("sdpa")
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=(4, 2), adapter_dim=5))
    ca.load_adapter(model, saved)
    model.train()
    with ca.record_routing(model) as routing:
        model(**TINY_MODELS["bert"].inputs())
    seq = routing.layers[0].router_logits.shape[1]
    assert routing.layers[0].selected_indices.shape[1] == -(-seq // 3)
    (hook,) = get_attachment(model).hooks
    assert hook.elastic_factors == ()


def test_loading_again_replaces_the_values(saved) -> None:
    model = trained_bert(seed=1)
    ca.load_adapter(model, saved)
    assert same(values(model), values(trained_bert()))


def test_the_saved_reduction_factor_is_used_and_may_be_edited(saved) -> None:
    path = saved / "adapter_config.json"
    config = json.loads(path.read_text())
    config["reduction_factor"] = 11
    path.write_text(json.dumps(config))
    model = TINY_MODELS["bert"].build("sdpa")
    ca.load_adapter(model, saved)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**TINY_MODELS["bert"].inputs())
    assert routing.layers[0].selected_indices.shape[1] == 1


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("base_model.model.classifier.bias"), "missing: .*classifier.bias"),
        (lambda t: t.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda t: t.update({"base_model.model.classifier.bias": torch.ones(9)}),
            r"wrong shape: .*classifier\.bias is \[9\], the model needs \[3\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed_and_nothing_is_loaded(saved, change, message) -> None:
    rewrite(saved, change)
    dense = TINY_MODELS["bert"].build("sdpa")
    names = list(dense.state_dict())
    with pytest.raises(ca.CheckpointError, match=message):
        ca.load_adapter(dense, saved)
    assert list(dense.state_dict()) == names
    attached = trained_bert(seed=1)
    before = values(attached)
    with pytest.raises(ca.CheckpointError, match=message):
        ca.load_adapter(attached, saved)
    assert same(values(attached), before)


def test_a_failed_load_leaves_the_active_adapter_active(saved) -> None:
    rewrite(saved, lambda t: t.update(extra=torch.ones(1)))
    model = trained_bert(seed=1)
    with torch.no_grad():
        inputs = TINY_MODELS["bert"].inputs()
        before = model(**inputs).logits
        with pytest.raises(ca.CheckpointError):
            ca.load_adapter(model, saved, adapter_name="other")
        assert torch.equal(model(**inputs).logits, before)


def test_an_adapter_of_another_architecture_or_class_is_refused(saved) -> None:
    vit = TINY_MODELS["vit"].build("sdpa")
    with pytest.raises(ca.CheckpointError, match=r"adapter for a bert model .* this is a vit"):
        ca.load_adapter(vit, saved)
    bare = TINY_MODELS["bert"].build("sdpa").bert
    with pytest.raises(ca.CheckpointError, match="BertForSequenceClassification model"):
        ca.load_adapter(bare, saved)


def test_another_configuration_under_a_taken_name_is_refused(saved) -> None:
    config = ca.ConditionalAdapterConfig(adapter_dim=5, gate="straight_through")
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"), config)
    with pytest.raises(ca.CheckpointError, match="another configuration"):
        ca.load_adapter(model, saved)


def test_missing_and_damaged_files_are_named(saved, tmp_path) -> None:
    model = TINY_MODELS["bert"].build("sdpa")
    with pytest.raises(ca.CheckpointError, match=r"no adapter_model\.safetensors in"):
        ca.load_adapter(model, tmp_path / "nowhere")
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ca.CheckpointError, match="not a readable safetensors file"):
        ca.load_adapter(model, saved)


def test_an_adapter_of_another_method_is_refused(saved) -> None:
    path = saved / "adapter_config.json"
    config = json.loads(path.read_text()) | {"peft_type": "LORA"}
    path.write_text(json.dumps(config))
    with pytest.raises(ca.CheckpointError, match="of type 'LORA', not 'CODA'"):
        ca.load_adapter(TINY_MODELS["bert"].build("sdpa"), saved)


def test_a_bad_field_in_the_file_is_named(saved) -> None:
    path = saved / "adapter_config.json"
    config = json.loads(path.read_text()) | {"reduction_factor": 0}
    path.write_text(json.dumps(config))
    with pytest.raises(ca.CheckpointError, match=r"adapter_config\.json: reduction_factor .*got 0"):
        ca.load_adapter(TINY_MODELS["bert"].build("sdpa"), saved)


def test_a_save_killed_at_any_rename_leaves_one_whole_adapter(saved, monkeypatch) -> None:
    old, new = values(trained_bert()), trained_bert(seed=1)
    real, calls = os.replace, []

    class Killed(BaseException):
        pass

    def replace_or_die(source, target):
        calls.append(target)
        if len(calls) == deadline:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_or_die)
    for deadline, expected in ((1, old), (2, values(new))):
        calls.clear()
        with pytest.raises(Killed):
            ca.save_adapter(new, saved)
        model = TINY_MODELS["bert"].build("sdpa")
        if deadline == 1:
            ca.load_adapter(model, saved)
        else:  # the tensors are the new ones, the configuration beside them is the old one
            with pytest.warns(UserWarning, match="belongs to an earlier save"):
                ca.load_adapter(model, saved)
        assert same(values(model), expected)
    assert set(os.listdir(saved)) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_save_that_fails_while_writing_leaves_the_old_adapter(saved, monkeypatch) -> None:
    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("conditional_adapters.checkpoint.files.save_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        ca.save_adapter(trained_bert(seed=1), saved)
    assert set(os.listdir(saved)) == {"adapter_config.json", "adapter_model.safetensors"}
    model = TINY_MODELS["bert"].build("sdpa")
    ca.load_adapter(model, saved)
    assert same(values(model), values(trained_bert()))


def directory_bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    "saved_factor, chosen, expected",
    [(3, 8, 8.0), (3.0, 1, 1.0), ((2, 4, 8), 4, [4.0, 2, 8]), ((2, 4), 3, [3.0, 2, 4])],
)
def test_a_saved_adapter_starts_with_another_factor_and_is_the_same_otherwise(
    tmp_path, saved_factor, chosen, expected
) -> None:
    config = ca.ConditionalAdapterConfig(reduction_factor=saved_factor, adapter_dim=5, epsilon=0.7)
    trained = ca.attach(TINY_MODELS["bert"].build("sdpa"), config)
    path = ca.save_adapter(trained, tmp_path / "adapter")
    (path / "task.json").write_text("{}")
    before, tensors = ca.read_adapter_config(path), load_file(path / "adapter_model.safetensors")
    returned = set_saved_reduction_factor(path, chosen)
    after = ca.read_adapter_config(path)
    assert after.pop("reduction_factor") == expected
    digest = after.pop("tensors_sha256")
    assert digest == hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()
    del before["reduction_factor"], before["tensors_sha256"]
    assert after == before
    with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
        embedded = json.loads(file.metadata()["adapter_config"])
    assert embedded == {**after, "reduction_factor": expected}
    assert same(load_file(path / "adapter_model.safetensors"), tensors)
    assert (path / "task.json").read_text() == "{}"
    model = TINY_MODELS["bert"].build("sdpa")
    ca.load_adapter(model, path)
    assert get_attachment(model).configs["default"] == returned
    assert {x.coda_part("default").reduction_factor for x in conditional_layers(model)} == {chosen}
    assert same(values(model), values(trained))


@pytest.mark.parametrize("killed_at, factor", [("replace_file", 3), ("replace_text", 8)])
def test_a_killed_change_of_the_factor_leaves_an_adapter(
    saved, monkeypatch, killed_at, factor
) -> None:
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            set_saved_reduction_factor(saved, 8)
    model = TINY_MODELS["bert"].build("sdpa")
    warning = (
        pytest.warns(UserWarning, match="stored with the tensors") if factor == 8 else nullcontext()
    )
    with warning:
        ca.load_adapter(model, saved)
    assert {x.coda_part("default").reduction_factor for x in conditional_layers(model)} == {factor}


def test_a_factor_out_of_range_or_no_adapter_changes_nothing(saved, tmp_path) -> None:
    before = directory_bytes(saved)
    with pytest.raises(ca.ConfigError, match=r"reduction_factor must be .* got 0.5"):
        set_saved_reduction_factor(saved, 0.5)
    with pytest.raises(ca.CheckpointError, match=r"no adapter_model\.safetensors"):
        set_saved_reduction_factor(tmp_path / "nothing", 2)
    assert directory_bytes(saved) == before
