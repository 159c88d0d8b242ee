"""The snippets of README and docs run as they stand, with a local model in place of a hub name."""

import re
import shlex

from transformers import BertConfig, BertModel

from tests.helpers import ROOT
from tests.helpers.documents import COMMANDS, snippets
from tests.helpers.tiny_models import TINY_MODELS


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained("base")
    scope = {"batch": TINY_MODELS["bert"].inputs()}
    for code in snippets("README.md", "python"):
        exec(code.replace("bert-base-uncased", "base"), scope)
    assert scope["routing"].layers[0].selected_indices.shape == (2, 2)  # ceil(11 / 8)
    assert not [n for n, _ in scope["model"].named_parameters() if "coda_" in n]  # detached


def test_the_python_of_the_page_about_many_adapters_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = TINY_MODELS["bert"]
    tiny.build(tiny.attention).base_model.save_pretrained("base")
    scope = {"batch": tiny.inputs()}
    for code in snippets("docs/many-adapters.md", "python"):
        exec(code.replace("bert-base-uncased", "base"), scope)
    assert scope["logits"].shape == scope["sports"].shape == (2, 3)


def test_the_commands_of_the_readme_exist_with_their_options() -> None:
    lines = [
        line.split("#")[0]
        for block in snippets("README.md", "bash")
        for line in block.splitlines()
        if line.startswith("coda ")
    ]
    assert len(lines) >= 4
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
        assert {a for a in arguments if a.startswith("-")} <= known, line


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
