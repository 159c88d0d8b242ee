"""What is drawn of a recording is what the model did with it, counted by hand."""

import numpy as np
import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.model.structure import find_sites
from conditional_adapters.toolkit.tasks._collate import examples_of
from conditional_adapters.toolkit.tasks.recording_map import route_recordings
from conditional_adapters.toolkit.visualisation import plot_patch_map
from tests.helpers.tiny_whisper import recogniser, write_tone


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return recogniser(tmp_path_factory.mktemp("whisper"))


def cells_of(folder, **seconds):
    return [
        {"bytes": None, "path": str(write_tone(folder / f"{name}.wav", 600, seconds=length))}
        for name, length in seconds.items()
    ]


def test_every_run_is_what_the_model_does_at_that_factor(task, tmp_path) -> None:
    cells = cells_of(tmp_path, short=0.3, long=1.7)
    rows = route_recordings(task, cells, (8, 2, 2.0), gold=["a", "b"])
    for row, cell, gold, num_tokens in zip(rows, cells, "ab", (15, 85), strict=True):
        assert (row.gold, row.heading.split()[-1]) == (gold, cell["path"].rpartition("/")[2])
        assert [run.reduction_factor for run in row.runs] == [2, 8]
        batch = task.collate(examples_of(task.encode({"audio": [cell]})))
        heard = {}
        for factor in (1, 2, 8):
            ca.set_reduction_factor(task.model, factor)
            with torch.no_grad():
                heard[factor] = task.infer(batch)[0].strip()
        assert row.dense_transcript == heard[1]
        assert len(set(heard.values())) > 1
        for run in row.runs:
            ca.set_reduction_factor(task.model, run.reduction_factor)
            with torch.no_grad(), ca.record_routing(task.model) as routing:
                find_sites(task.model).runner(**batch)
            chosen = [
                {i for i in d.selected_indices[d.is_selected].tolist() if i < num_tokens}
                for d in routing.layers
            ]
            assert run.processed.shape == (2, num_tokens)  # 20 ms each
            assert [set(np.flatnonzero(layer)) for layer in run.processed] == chosen
            np.testing.assert_array_equal(run.view.layer_counts, run.processed.sum(0)[None])
            assert run.view.seconds == pytest.approx(num_tokens * 0.02)
            assert run.transcript == heard[run.reduction_factor]
            assert run.view.title == (
                f'r = {run.reduction_factor:g}: "{run.transcript}"; '
                f'with every token: "{row.dense_transcript}"; right: "{gold}"'
            )


def test_low_tones_are_at_the_bottom_of_the_spectrogram(task, tmp_path) -> None:
    low, high = (
        route_recordings(
            task, [{"bytes": None, "path": str(write_tone(tmp_path / f"{f}.wav", f))}], (2,)
        )[0].runs[0]
        for f in (300, 3500)
    )
    assert low.view.pixels[..., 0].mean(1).argmax() > high.view.pixels[..., 0].mean(1).argmax()


def test_the_model_is_left_as_it_was_and_the_figure_is_drawn(task, tmp_path) -> None:
    ca.set_reduction_factor(task.model, 5)
    task.model.train()
    (row,) = route_recordings(task, cells_of(tmp_path, tone=0.5), (2, 4))
    assert task.model.training
    task.model.eval()
    layers = conditional_layers(task.model)
    assert {layer.coda_part("default").reduction_factor for layer in layers} == {5}
    figure = plot_patch_map([row.runs[0].view], num_layers=2)
    assert figure.get_size_inches()[0] == pytest.approx(7.2)


def test_factors_without_a_choice_are_refused(task, tmp_path) -> None:
    with pytest.raises(ca.ConfigError, match=r"above 1 .*got \[1.0, 4.0\]"):
        route_recordings(task, cells_of(tmp_path, tone=0.5), (1, 4))


def test_a_recording_that_is_too_long_or_broken_is_named(task, tmp_path) -> None:
    with pytest.raises(ca.DataError, match=r"tone\.wav has 2.5 seconds, but the window .* 2"):
        route_recordings(task, cells_of(tmp_path, tone=2.5), (2,))
    (tmp_path / "broken.wav").write_bytes(b"no recording")
    with pytest.raises(ca.DataError, match=r"broken\.wav cannot be decoded"):
        route_recordings(task, [{"bytes": None, "path": str(tmp_path / "broken.wav")}], (2,))
