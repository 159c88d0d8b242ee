"""The snippets of docs/hub.md run as they stand, against a hub on this machine."""

import shlex

from tests.helpers.documents import COMMANDS, snippets
from tests.helpers.tiny_models import TINY_MODELS


def test_the_python_of_the_page_runs(hub, tmp_path, monkeypatch) -> None:
    import conditional_adapters as ca

    monkeypatch.chdir(tmp_path)
    model = TINY_MODELS["bert"].build("sdpa")
    model.save_pretrained("base")
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=3))
    hub.commit(
        "user/my-adapter", {p.name: p.read_bytes() for p in ca.save_adapter(model, "a").iterdir()}
    )
    scope: dict = {}
    load, publish = snippets("docs/hub.md", "python")
    exec(load.replace("bert-base-uncased", "base"), scope)
    scope["model"].config.name_or_path = "bert-base-uncased"
    assert ca.count_parameters(scope["model"]) == ca.count_parameters(model)
    exec(publish, scope)
    assert b"base_model: bert-base-uncased" in hub.commits["user/my-adapter"][-1]["README.md"]


def test_the_commands_of_the_page_exist_with_their_options() -> None:
    lines = [line for block in snippets("docs/hub.md", "bash") for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
        assert {a for a in arguments if a.startswith("--")} <= known, line
