"""`coda quickstart`: dense and conditional adapters on real weights and data, in one table.

MiniLM learns to classify BBC News with dense parallel adapters and with conditional ones, from the
same seed and with the same data and settings: once for as many steps, once for more steps in no
more time. All are evaluated on the same held-out documents and timed in turns.
"""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from ..._version import __version__
from ...analysis import count_parameters, estimate_flops
from ...checkpoint.atomic import replace_text
from ...checkpoint.save_load import load_adapter
from ...config import ConditionalAdapterConfig
from ...errors import ConfigError
from ...model.attach import attach, set_adapter
from ...training import TrainingSettings, finetune
from ..tasks._collate import examples_of
from ..tasks.bundle import save_task
from ..tasks.data import DataSpec, load_rows, split_train_test
from ..tasks.inference import predict_scores
from ..tasks.metrics import classification_metrics, compare_accuracy
from ..tasks.models import Classifier, load_classifier
from ..tasks.routing_map import route_documents
from ..visualisation import plot_token_map
from . import _options as options
from ._console import format_p_value, messages, print_json, print_table
from .bench import COMPILED, time_encoders
from .train import seed_everything

if TYPE_CHECKING:
    import datasets

_MODEL, _DATA = "packaged:minilm", "packaged:bbc"
_TEST_ROWS, _MAX_LENGTH, _TIMING_BATCH = 725, 256, 8
_ADAPTERS = ("dense", "default")


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/quickstart"),
    reduction_factor: Annotated[
        float, typer.Option("--reduction-factor", "-r", help="r of the conditional adapters.")
    ] = 4.0,
    epochs: Annotated[
        float, typer.Option(help="Passes of the dense adapters over the training data.")
    ] = 1.0,
    rows: Annotated[
        int | None, typer.Option(min=50, help="Number of training documents, of 1,500.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Train MiniLM on BBC News with dense and with conditional adapters, and compare them.

    Writes OUTPUT/adapter (the conditional one), OUTPUT/results.json and OUTPUT/token_map.png: three
    test documents with words coloured by the number of layers that processed them.
    """
    train_rows, test_rows = _load(rows)
    dense = ConditionalAdapterConfig(reduction_factor=1)
    conditional = ConditionalAdapterConfig(reduction_factor=reduction_factor)
    runs: list[dict[str, Any]] = []
    scores: list[np.ndarray] = []

    def run(title: str, config: ConditionalAdapterConfig, epochs: float) -> Classifier:
        messages.print(f"[bold]{len(runs) + 1}/3 {title}[/]")
        folder = output / f"run{len(runs) + 1}"
        classifier, result = _train(config, train_rows, folder, epochs, seed)
        scores.append(predict_scores(classifier, test_rows, show_progress=True))
        labels = np.asarray(test_rows["label"])
        metrics = classification_metrics(scores[-1], labels)
        metrics |= compare_accuracy(scores[-1], scores[0], labels)
        runs.append({"method": title, **result, **metrics})
        return classifier

    name = f"r = {reduction_factor:g}"
    run("dense adapters", dense, epochs)
    run(f"{name}, same steps", conditional, epochs)
    seconds_per_epoch = runs[1]["training_seconds"] / epochs
    affordable = math.floor(runs[0]["training_seconds"] / seconds_per_epoch)
    # At most three passes, for a total of about ten minutes on two cores.
    classifier = run(f"{name}, no more time", conditional, max(min(affordable, 3.0), epochs))

    adapter = save_task(classifier, output / "adapter", base_model=_MODEL)
    _measure_speed(classifier, output / "run1" / "adapter", test_rows, runs)
    gold = [classifier.labels[index] for index in test_rows[:3]["label"]]
    documents, num_layers = route_documents(classifier, test_rows[:3]["text"], gold)
    caption = (
        f"MiniLM on BBC News, {name}: each layer processes 1/{reduction_factor:g} of the tokens."
    )
    figure = plot_token_map(documents, num_layers=num_layers, caption=caption)
    figure.savefig(output / "token_map.png")
    report = {
        "command": "coda quickstart",
        "versions": {"conditional_adapters": __version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "seed": seed,
        "training_rows": len(train_rows),
        "test_rows": len(test_rows),
        "tokens_per_document": _MAX_LENGTH,
        "timing_batch": _TIMING_BATCH,
        "runs": runs,
    }
    replace_text(output / "results.json", json.dumps(report, indent=2) + "\n")
    if as_json:
        print_json(report)
    else:
        print_table(f"MiniLM on BBC News, {len(test_rows)} test documents", _table(runs))
    messages.print(f"adapter: {adapter}\nresults: {output / 'results.json'}")
    messages.print(f"picture: {output / 'token_map.png'}")


def _load(num_rows: int | None) -> "tuple[datasets.Dataset, datasets.Dataset]":
    rows = load_rows(DataSpec(source=_DATA), modality="text")
    train_rows, test_rows = split_train_test(rows, test_size=_TEST_ROWS, seed=0)
    if num_rows is not None and num_rows < len(train_rows):
        train_rows = train_rows.select(range(num_rows))
    return train_rows, test_rows


def _train(
    config: ConditionalAdapterConfig,
    train_rows: "datasets.Dataset",
    output: Path,
    epochs: float,
    seed: int,
) -> tuple[Classifier, dict[str, Any]]:
    """Train and save one adapter; return its size and training time, too."""
    seed_everything(seed)
    labels = train_rows.features["label"].names
    classifier = load_classifier(_MODEL, labels, max_length=_MAX_LENGTH)
    attach(classifier.model, config)
    settings = replace(TrainingSettings(), epochs=epochs, seed=seed, save_every_epoch=False)
    start = perf_counter()
    finetune(classifier, train_rows, output=output, settings=settings)
    seconds = perf_counter() - start
    save_task(classifier, output / "adapter", base_model=_MODEL)
    counts = count_parameters(classifier.model)
    size = {"new_parameters": counts.new, "new_parameters_share": counts.new_share}
    return classifier, size | {"epochs": epochs, "training_seconds": seconds}


def _measure_speed(
    classifier: Classifier,
    dense_adapter: Path,
    test_rows: "datasets.Dataset",
    runs: list[dict[str, Any]],
) -> None:
    """Time the encoder with both adapters on the same full-length documents."""
    model = classifier.model
    load_adapter(model, dense_adapter, adapter_name="dense")
    texts = [text for text in test_rows["text"] if len(text) > 6 * _MAX_LENGTH][:_TIMING_BATCH]
    batch = classifier.collate(examples_of(classifier.encode({"text": texts})))
    batch.pop("attention_mask")  # nothing is padded, which compiled code cannot detect
    measure = partial(
        time_encoders, model.base_model, batch, _ADAPTERS, partial(set_adapter, model), rounds=15
    )
    messages.print("[bold]speed[/] (compiling takes a minute)")
    try:
        timings = measure(compiled=True)
    except ConfigError as error:
        messages.print(f"[yellow]Not measured with compiled encoders:[/] {error}")
        timings = measure(compiled=False)
    flops = {}
    for name in _ADAPTERS:
        set_adapter(model, name)
        shape = batch["input_ids"].shape
        flops[name] = estimate_flops(model, batch_size=shape[0], sequence_length=shape[1]).total
    set_adapter(model, "default")
    for run, name in zip(runs, ("dense", "default", "default"), strict=True):
        run["encoder_seconds_per_document"] = timings[name].median / _TIMING_BATCH
        run["speed_up"] = timings[name].speed_up(over=timings["dense"])
        if name + COMPILED in timings:
            compiled = timings[name + COMPILED]
            run["speed_up_compiled"] = compiled.speed_up(over=timings["dense" + COMPILED])
        run["flop_ratio"] = flops["dense"] / flops[name]


def _table(runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "method": run["method"],
            "new": f"{run['new_parameters_share']:.1%}",
            "training": f"{run['training_seconds']:.0f} s",
            "accuracy": f"{run['accuracy']:.1%}",
            "difference": f"{run['accuracy_difference'] * 100:+.1f} "
            f"({format_p_value(run['p_value'])})",
            "per document": f"{run['encoder_seconds_per_document'] * 1e3:.1f} ms",
            "speed-up": f"{run['speed_up']:.2f}x",
            "compiled": f"{run['speed_up_compiled']:.2f}x" if "speed_up_compiled" in run else "-",
            "FLOP ratio": f"{run['flop_ratio']:.2f}x",
        }
        for run in runs
    ]
