"""The main job from end to end, on real weights and data, with fewer rows and shorter texts."""

import functools
import json

import numpy as np
import pytest
import torch
from matplotlib import image

from conditional_adapters import load_adapter, read_adapter_config
from conditional_adapters.toolkit.cli import quickstart
from conditional_adapters.toolkit.tasks.bundle import load_trained_classifier
from tests.helpers.runner import run


@pytest.mark.compile  # times compiled encoders, too
def test_the_quickstart_writes_adapter_table_and_picture(tmp_path, monkeypatch, needs) -> None:
    needs("minilm")
    needs("bbc_news")
    monkeypatch.setattr(quickstart, "_TEST_ROWS", 25)
    monkeypatch.setattr(quickstart, "_MAX_LENGTH", 48)
    # Traces as the real one does, and generates no code, which takes a minute.
    quick_compile = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", quick_compile)
    report = json.loads(run("quickstart", "--output", tmp_path, "--rows", 50, "--json").stdout)
    assert report == json.loads((tmp_path / "results.json").read_text())
    dense, same_steps, same_time = report["runs"]
    for row in report["runs"]:
        assert 0 <= row["accuracy"] <= 1
        assert row["new_parameters_share"] < 0.03
    assert dense["epochs"] == same_steps["epochs"] == 1
    assert same_time["epochs"] >= 1
    assert dense["speed_up"] == dense["flop_ratio"] == 1
    assert same_time["flop_ratio"] > 3
    assert dense["speed_up_compiled"] == 1 != same_time["speed_up_compiled"]
    assert read_adapter_config(tmp_path / "adapter")["reduction_factor"] == 4
    classifier = load_trained_classifier(tmp_path / "adapter")
    load_adapter(classifier.model, tmp_path / "run1" / "adapter", adapter_name="dense")
    picture = image.imread(tmp_path / "token_map.png")
    assert picture.shape[0] > 300
    assert np.unique(picture.reshape(-1, picture.shape[-1]), axis=0).shape[0] > 50
