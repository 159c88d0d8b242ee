"""`coda train`: fine-tune a classifier with conditional adapters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..analysis import count_parameters
from ..attach import attach
from ..config import ConditionalAdapterConfig
from ..errors import ConfigError
from ..tasks.bundle import save_classifier
from ..tasks.data import DataSpec, load_rows, split_train_test
from ..tasks.inference import predict_scores
from ..tasks.metrics import classification_metrics
from ..tasks.models import load_classifier, modality_of
from ..training import TrainingSettings, finetune
from . import _options as options
from ._console import messages, print_json, print_metrics

_CONFIG = ConditionalAdapterConfig()
_SETTINGS = TrainingSettings()
_ADAPTER, _TRAINING, _DATA = "Adapter", "Training", "Data"


def train(
    model: options.Model,
    data: options.Data,
    output: Annotated[
        Path, typer.Option(help="Folder for adapter/, checkpoints and the TensorBoard log.")
    ],
    test_data: Annotated[
        str | None, typer.Option(help="Data set to evaluate on at the end.", rich_help_panel=_DATA)
    ] = None,
    test_split: Annotated[
        str | None,
        typer.Option(help="Part of --test-data to read, if it has several.", rich_help_panel=_DATA),
    ] = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            help="Without --test-data: share of the rows that is held out, by class.",
            rich_help_panel=_DATA,
        ),
    ] = 0.2,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    label_column: options.LabelColumn = "label",
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    max_length: options.MaxLength = None,
    reduction_factor: Annotated[
        str,
        typer.Option(
            "--reduction-factor",
            "-r",
            help="r: heavy layers process n/r tokens. 1 is a dense adapter; 2,4,8 an elastic one.",
            rich_help_panel=_ADAPTER,
        ),
    ] = f"{_CONFIG.default_reduction_factor:g}",
    adapter_dim: Annotated[
        int, typer.Option(help="Width of the bottleneck.", rich_help_panel=_ADAPTER)
    ] = _CONFIG.adapter_dim,
    epsilon: Annotated[
        float, typer.Option(help="Temperature of the soft top-k.", rich_help_panel=_ADAPTER)
    ] = _CONFIG.epsilon,
    soft_topk: Annotated[
        str,
        typer.Option(metavar="[exact|iterative]", help="Method.", rich_help_panel=_ADAPTER),
    ] = _CONFIG.soft_topk,
    gate: Annotated[
        str,
        typer.Option(
            metavar="[weighted|straight_through]", help="Update weights.", rich_help_panel=_ADAPTER
        ),
    ] = _CONFIG.gate,
    router: Annotated[
        str,
        typer.Option(
            metavar="[learned|random|first|strided]",
            help="How tokens are chosen.",
            rich_help_panel=_ADAPTER,
        ),
    ] = _CONFIG.router_kind,
    train_norms: Annotated[
        bool, typer.Option(help="Train layer norms.", rich_help_panel=_ADAPTER)
    ] = _CONFIG.train_norms,
    epochs: Annotated[
        float, typer.Option(help="Passes over the training rows.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Rows per step.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Peak, of adapters and head.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.learning_rate,
    router_learning_rate: Annotated[
        float, typer.Option(help="Peak, of routers.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.router_learning_rate,
    schedule: Annotated[
        str, typer.Option(help="Learning rate schedule.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.schedule,
    seed: options.Seed = _SETTINGS.seed,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Save memory, spend time.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.gradient_checkpointing,
    bf16: Annotated[
        bool, typer.Option(help="Mixed precision.", rich_help_panel=_TRAINING)
    ] = _SETTINGS.bf16,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint.", rich_help_panel=_TRAINING),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune a text or image classifier with conditional adapters.

    Writes OUTPUT/adapter, for coda evaluate, predict and bench and for load_adapter. Checkpoints
    and the TensorBoard log are in OUTPUT as well.
    """
    config = ConditionalAdapterConfig.from_dict(
        {
            "reduction_factor": options.parse_factors(reduction_factor),
            "adapter_dim": adapter_dim,
            "epsilon": epsilon,
            "soft_topk": soft_topk,
            "gate": gate,
            "router_kind": router,
            "train_norms": train_norms,
        }
    )
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        router_learning_rate=router_learning_rate,
        schedule=schedule,
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
        bf16=bf16,
    )
    if not 0 < test_fraction < 1:
        raise ConfigError(f"--test-fraction must be between 0 and 1, got {test_fraction}.")
    modality = modality_of(model)
    columns: dict[str, Any] = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "on_bad_row": on_bad_row,
    }
    rows = load_rows(DataSpec(source=data, split=split, limit=limit, **columns), modality=modality)
    labels = rows.features["label"].names
    if test_data is None:
        train_rows, test_rows = split_train_test(rows, test_size=test_fraction, seed=seed)
    else:
        train_rows = rows
        test_rows = load_rows(
            DataSpec(source=test_data, split=test_split, **columns),
            modality=modality,
            labels=labels,
        )
    seed_everything(seed)
    classifier = load_classifier(model, labels, max_length=max_length)
    attach(classifier.model, config)
    counts = count_parameters(classifier.model)
    messages.print(
        f"{len(train_rows):,} training and {len(test_rows):,} test rows, {len(labels)} classes; "
        f"{counts.new:,} new parameters ({counts.new_share:.1%} of the model)"
    )
    finetune(classifier, train_rows, output=output, settings=settings, resume=resume)
    save_classifier(classifier, output / "adapter", base_model=model)
    scores = predict_scores(classifier, test_rows, show_progress=True)
    metrics = classification_metrics(scores, test_rows["label"])
    summary = {
        "adapter": str(output / "adapter"),
        "test_rows": len(test_rows),
        "new_parameters": counts.new,
        **metrics,
    }
    if as_json:
        print_json(summary)
    else:
        print_metrics(f"Saved {output / 'adapter'}", len(test_rows), metrics)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch before new parameters are drawn."""
    from transformers import set_seed

    set_seed(seed)
