"""Adapters by hub id, with the real huggingface_hub and a hub on this machine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

import conditional_adapters as ca
from conditional_adapters.hub.model_card import is_generated
from conditional_adapters.model.attachment import adapter_parameters
from conditional_adapters.training import attach_pretrained
from tests.helpers.local_hub import commit_id
from tests.helpers.runner import run
from tests.helpers.tiny_classifiers import save_with_base, text_classifier
from tests.helpers.tiny_models import TINY_MODELS

CONFIG = ca.ConditionalAdapterConfig(reduction_factor=3, adapter_dim=5)
REPO = "some-one/tiny.adapter"
FILES = {"adapter_config.json", "adapter_model.safetensors"}


def save(directory: Path, fill: float) -> Path:
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"), CONFIG)
    model.config.name_or_path = "some-one/base"
    with torch.no_grad():
        for _, parameter in adapter_parameters(model, "default"):
            parameter.fill_(fill)
    return ca.save_adapter(model, directory)


def loaded_fill(source, **arguments) -> float:
    model = TINY_MODELS["bert"].build("sdpa")
    ca.load_adapter(model, source, **arguments)
    (value,) = {v for _, p in adapter_parameters(model, "default") for v in p.unique().tolist()}
    return value


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_is_pushed_is_loaded_by_its_hub_id_and_cached(hub, tmp_path, monkeypatch) -> None:
    directory = save(tmp_path / "adapter", 0.5)
    (directory / "optimizer.pt").write_text("private")
    url = ca.push_to_hub(directory, REPO, commit_message="First")
    assert url == f"{hub.url}/{REPO}/commit/{commit_id(REPO, 0)}"
    assert hub.messages == ["First"]
    (pushed,) = hub.commits[REPO]
    assert set(pushed) == {*FILES, "README.md"}
    assert pushed == {name: contents(directory)[name] for name in pushed}

    assert loaded_fill(REPO) == 0.5
    assert set(hub.downloads) == FILES  # not the card
    assert ca.read_adapter_config(REPO)["adapter_dim"] == 5
    assert len(hub.downloads) == len(FILES)  # from the cache
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loaded_fill(REPO) == 0.5


def test_a_revision_is_loaded_and_a_new_commit_is_noticed(hub, tmp_path) -> None:
    first = hub.commit(REPO, contents(save(tmp_path / "one", 1.0)))
    assert loaded_fill(REPO) == 1.0
    hub.commit(REPO, contents(save(tmp_path / "two", 2.0)))
    assert loaded_fill(REPO) == 2.0
    assert loaded_fill(REPO, revision=first) == 1.0
    model = attach_pretrained(TINY_MODELS["bert"].build("sdpa"), REPO, revision=first)
    assert model.bert.encoder.layer[0].coda_part("default").router.weight.eq(1).all()


def test_a_directory_wins_over_a_hub_id_of_its_name(hub, tmp_path, monkeypatch) -> None:
    hub.commit(REPO, contents(save(tmp_path / "remote", 1.0)))
    monkeypatch.chdir(tmp_path)
    assert loaded_fill(REPO) == 1.0
    save(Path(REPO), 2.0)
    assert loaded_fill(REPO) == 2.0
    with pytest.raises(ca.CheckpointError, match=r"has no revision 'main'\. Leave out"):
        loaded_fill(REPO, revision="main")


def test_offline_mode_loads_what_others_put_into_the_cache(cache, tmp_path) -> None:
    sha = "ab" * 20
    repository = cache / "models--some-one--tiny.adapter"
    shutil.copytree(save(tmp_path / "adapter", 3.0), repository / "snapshots" / sha)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(sha)
    assert loaded_fill(REPO) == loaded_fill(REPO, revision=sha) == 3.0
    with pytest.raises(ca.CheckpointError, match=r"offline mode is on.* at revision 'v2'"):
        loaded_fill(REPO, revision="v2")
    (repository / "snapshots" / sha / "adapter_model.safetensors").unlink()
    with pytest.raises(ca.CheckpointError, match=r"has no adapter_model.safetensors: it is not"):
        loaded_fill(REPO)


def test_what_cannot_be_loaded_says_why_and_what_to_do(hub, online, tmp_path) -> None:
    hub.commit(REPO, {"config.json": b"{}"})

    def message(source, **arguments) -> str:
        with pytest.raises(ca.CheckpointError) as caught:
            loaded_fill(source, **arguments)
        return str(caught.value)

    assert "no repository 'no-one/nothing' that you can read" in message("no-one/nothing")
    assert "has no revision 'v9'" in message(REPO, revision="v9")
    assert "has no adapter_model.safetensors: it is not an adapter" in message(REPO)
    assert "no adapter_model.safetensors in missing" in message("missing")
    assert "no adapter_model.safetensors in" in message(Path("no-one/nothing"))
    online("http://127.0.0.1:9")  # nobody listens there
    text = message("no-one/else")
    assert "there is no directory 'no-one/else', and http://127.0.0.1:9 cannot be reached" in text
    assert f"the cache ({tmp_path / 'cache'}) has no complete copy of 'no-one/else'" in text
    assert "`hf download no-one/else`" in text


def test_offline_mode_says_so(cache) -> None:
    with pytest.raises(ca.CheckpointError) as caught:
        loaded_fill(REPO)
    assert f"offline mode is on, and the cache ({cache}) has no complete copy" in str(caught.value)
    assert str(caught.value).endswith(
        f"Unset HF_HUB_OFFLINE, or load it once with network access (`hf download {REPO}`)."
    )


def test_what_cannot_be_pushed_says_why_and_what_to_do(hub, online, tmp_path, monkeypatch) -> None:
    directory = save(tmp_path / "adapter", 1.0)

    def message(source=directory, repo=REPO, **arguments) -> str:
        with pytest.raises(ca.CheckpointError) as caught:
            ca.push_to_hub(source, repo, **arguments)
        return str(caught.value)

    assert "repo_id must be 'user/name'" in message(repo="tiny")
    assert "no adapter_model.safetensors in" in message(tmp_path)
    assert "Log in with `hf auth login`, or set HF_TOKEN" in message(token="hf_wrong")
    online("http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached. Check the network" in message()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"cannot publish {directory} as {REPO}: offline mode is on" in message()
    assert not hub.commits


def test_a_card_is_written_for_the_hub_unless_somebody_edited_it(hub, tmp_path) -> None:
    directory = save(tmp_path / "adapter", 1.0)
    card = directory / "README.md"

    def pushed() -> str:
        save(directory, float(len(hub.messages)))  # so that there is something to commit
        ca.push_to_hub(directory, REPO)
        return hub.commits[REPO][-1]["README.md"].decode()

    assert f'ca.load_adapter(model, "{REPO}")' in pushed()
    assert ModelCard(pushed()).data.base_model == "some-one/base"
    hub.commit(REPO, {"README.md": b"# Edited on the Hub\n"})
    assert is_generated(card.read_text())
    assert pushed() == "# Edited on the Hub\n"
    card.write_text("# Edited here\n")
    assert pushed() == "# Edited here\n"


def test_commands_push_and_read_by_hub_id(hub, tmp_path, monkeypatch) -> None:
    directory = save_with_base(text_classifier(), tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "w1 w2 w3"}\n{"text": "w4"}\n')
    with pytest.warns(UserWarning, match="base model .*/base', which others do not have"):
        result = run("push", "--adapter", directory, "--repo", REPO, "--json")
    assert json.loads(result.stdout)["url"].endswith(commit_id(REPO, 0))
    assert set(hub.commits[REPO][0]) == {*FILES, "task.json", "README.md"}
    here = run("predict", "--adapter", directory, "--data", "rows.jsonl").stdout
    assert run("predict", "--adapter", REPO, "--data", "rows.jsonl").stdout == here
    hub.commit(REPO, {"task.json": b"later"})
    source = f"{REPO}@{commit_id(REPO, 0)}"
    assert run("predict", "--adapter", source, "--data", "rows.jsonl").stdout == here
    arguments = ("--adapter", REPO, "--data", "rows.jsonl", "--write")
    refused = run("evaluate", *arguments, expect=ca.ConfigError)
    assert f"'{REPO}' is not a folder" in str(refused.exception)
