"""A conditional SentenceTransformer: the snippets of its page run, and what they make is right."""

import os
import re

import numpy as np
import pytest
import sentence_transformers
import torch

import conditional_adapters as ca
from conditional_adapters.integrations.peft import ConditionalAdapterPeftConfig
from conditional_adapters.model.attachment import adapter_parameters
from tests.helpers import ROOT
from tests.helpers.tiny_text import write_bert
from tests.helpers.versions import needs_add_adapter

PAGE = ROOT / "docs/sentence-transformers.md"
QUESTIONS = [f"cat {'oak' * (i % 3)} {i}" for i in range(16)]
ANSWERS = [f"{i} dog elm" for i in range(16)]


@needs_add_adapter
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_it_encodes_trains_saves_and_loads_as_the_page_says(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_bert("base", ["cat", "dog", "oak", "elm"])
    sentence_transformers.SentenceTransformer("base").save_pretrained("search-base")  # mean pooling

    train, reload = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    scope: dict = {"questions": QUESTIONS, "answers": ANSWERS}
    for code in (train, reload):
        exec(code.replace("sentence-transformers/all-MiniLM-L6-v2", "search-base"), scope)

    model, again = scope["model"], scope["again"]
    dense = sentence_transformers.SentenceTransformer("search-base")
    trained = dict(adapter_parameters(model[0].auto_model, "default"))
    assert all(p.isfinite().all() for p in trained.values())
    assert any("adapter.up" in name and p.abs().max() > 0 for name, p in trained.items())
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    before = dict(dense.named_parameters())
    assert len(frozen & set(before)) > 20
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in frozen & set(before))
    assert "model.safetensors" not in os.listdir("my-search")

    assert not np.allclose(scope["embeddings"], dense.encode(QUESTIONS), atol=1e-3)
    assert not np.allclose(scope["faster"], scope["embeddings"], atol=1e-4)
    ca.set_reduction_factor(again[0].auto_model, 2)
    np.testing.assert_array_equal(again.encode(QUESTIONS), scope["embeddings"])


@needs_add_adapter
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_modules_to_save_are_restored(tmp_path) -> None:
    write_bert(tmp_path / "base", ["cat", "dog", "oak", "elm"])
    base = str(tmp_path / "base")
    model = sentence_transformers.SentenceTransformer(base, device="cpu")
    model.add_adapter(
        ConditionalAdapterPeftConfig(reduction_factor=2, adapter_dim=4, modules_to_save=["pooler"])
    )
    changed = {
        name: parameter
        for name, parameter in adapter_parameters(model[0].auto_model, "default")
        if "pooler" in name
    }
    assert changed
    with torch.no_grad():
        for parameter in changed.values():
            parameter.fill_(0.25)
    model.save_pretrained(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(base, device="cpu")
    again.load_adapter(str(tmp_path / "saved"))
    restored = dict(adapter_parameters(again[0].auto_model, "default"))
    for name, parameter in changed.items():
        assert torch.equal(restored[name], parameter)
    np.testing.assert_array_equal(again.encode(QUESTIONS), model.encode(QUESTIONS))
    states = {"input_ids": torch.full((2, 9), 5)}
    with torch.no_grad():
        pooled = [each[0].auto_model.eval()(**states).pooler_output for each in (model, again)]
    assert torch.equal(*pooled)
    assert pooled[0].unique().numel() <= 2  # one value per row: the pooler of the adapter ran
