"""The snippets of docs about commands run as they stand, on an adapter with random weights."""

import pytest

import conditional_adapters as ca
from conditional_adapters.toolkit.tasks.bundle import save_task
from tests.helpers.documents import snippets
from tests.helpers.factor_curves import text_rows
from tests.helpers.tiny_classifiers import LABELS, save_with_base, text_classifier
from tests.helpers.tiny_whisper import recogniser, write_tone

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
    if "recogniser" in "".join(snippets(page, "python")):
        task = recogniser(tmp_path / "whisper")
        save_task(task, "runs/speech/adapter", base_model=str(tmp_path / "whisper"))
        write_tone(tmp_path / "call.wav", 440)
    scope: dict = {}
    for code in snippets(page, "python"):
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
        assert (tmp_path / "moments.png").stat().st_size > 1000
