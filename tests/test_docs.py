"""The snippets of docs about commands run as they stand, on an adapter with random weights."""

import shlex

import pytest

import conditional_adapters as ca
from tests.tasks.test_tuning import text_rows
from tests.tasks.tiny_classifiers import LABELS, save_with_base, text_classifier
from tests.test_readme import COMMANDS, snippets

PAGES = ["docs/choosing-r.md", "docs/seeing-the-routing.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_the_page_runs(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "bbc"
    folder.mkdir(parents=True)
    save_with_base(text_classifier(), folder)
    rows = text_rows(20)
    table = rows.to_pandas()
    table["label"] = [LABELS[index] for index in table["label"]]
    table.to_csv("validation.csv", index=False)
    scope: dict = {}
    (code,) = snippets(page, "python")
    exec(code, scope)
    if "chosen" in scope:
        start = ca.read_adapter_config(folder / "adapter")["reduction_factor"][0]
        chosen = scope["chosen"]
        assert start == (2 if chosen is None else chosen.reduction_factor)
    else:
        assert (tmp_path / "words.png").stat().st_size > 1000
        assert (tmp_path / "layers.png").stat().st_size > 1000
        assert scope["page"].startswith("<!doctype html>")
        assert scope["run"].reduction_factor == 4


@pytest.mark.parametrize("page", [*PAGES, "docs/demo.md"])
def test_the_commands_of_the_page_exist_with_their_options(page) -> None:
    (block,) = snippets(page, "bash")
    lines = block.splitlines()
    assert len(lines) == 3
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
        known |= {n for parameter in COMMANDS[verb].params for n in parameter.secondary_opts}
        assert {a for a in arguments if a.startswith("-")} <= known, line
