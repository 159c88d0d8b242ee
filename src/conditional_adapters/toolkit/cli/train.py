"""`coda train`: fine-tune a model for a task with conditional adapters."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...analysis import count_parameters
from ...checkpoint.save_load import attach_pretrained, read_adapter_config
from ...config import ConditionalAdapterConfig
from ...errors import ConfigError
from ...hub.measurements import Measurement
from ...hub.model_card import record_measurements
from ...model.attach import attach
from ...training import TrainingSettings, finetune
from ..assets import find_adapter
from ..tasks.bundle import save_task
from ..tasks.inference import predict
from ..tasks.kinds import TASKS, default_task, find_task
from ..tasks.task_data import load_task_rows, split_rows
from . import _options as options
from ._console import messages, print_json, print_metrics

_CONFIG = ConditionalAdapterConfig()
_SETTINGS = TrainingSettings()


def train(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    output: options.Output,
    task: Annotated[
        str | None,
        typer.Option(metavar=f"[{'|'.join(TASKS)}]", help="Task; by default that of the model."),
    ] = None,
    test_data: Annotated[
        str | None, options.data_option(help="Data set for the final evaluation.")
    ] = None,
    test_split: Annotated[
        str | None, options.data_option(help="Split of --test-data to read, if it has several.")
    ] = None,
    test_fraction: Annotated[
        float,
        options.data_option(help="Without --test-data: share of rows to hold out, by class."),
    ] = 0.2,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    label_column: options.LabelColumn = "label",
    column: options.Columns = None,
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    max_length: options.MaxLength = None,
    init: Annotated[
        str | None,
        options.adapter_option(
            help="Start from a pretrained adapter and its configuration, except for options that "
            "are given: a folder written by coda pretrain, a hub id, or packaged:NAME."
        ),
    ] = None,
    # Read by options.adapter_fields.
    reduction_factor: options.Factors = f"{_CONFIG.default_reduction_factor:g}",
    adapter_dim: options.AdapterDim = _CONFIG.adapter_dim,
    attention_mode: options.AttentionMode = _CONFIG.attention_mode,
    epsilon: options.Epsilon = _CONFIG.epsilon,
    soft_topk: options.SoftTopK = _CONFIG.soft_topk,
    gate: options.Gate = _CONFIG.gate,
    router_kind: options.Router = _CONFIG.router_kind,
    train_norms: options.TrainNorms = _CONFIG.train_norms,
    # Read by options.build.
    epochs: Annotated[
        float, options.training_option(help="Passes over the training data.")
    ] = _SETTINGS.epochs,
    batch_size: options.StepSize = _SETTINGS.batch_size,
    learning_rate: options.LearningRate = _SETTINGS.learning_rate,
    router_learning_rate: options.RouterLearningRate = _SETTINGS.router_learning_rate,
    schedule: options.Schedule = _SETTINGS.schedule,
    seed: options.Seed = _SETTINGS.seed,
    gradient_checkpointing: options.GradientCheckpointing = _SETTINGS.gradient_checkpointing,
    bf16: options.Bf16 = _SETTINGS.bf16,
    resume: options.Resume = False,
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune a model for a task with conditional adapters.

    docs/tasks.md lists the tasks, their columns and metrics. Writes OUTPUT/adapter with its model
    card, for coda evaluate, predict and push and for load_adapter, and checkpoints and the
    TensorBoard log to OUTPUT.
    """
    start = None if init is None else find_adapter(init)
    fields = options.adapter_fields(context, only_given=start is not None)
    config = ConditionalAdapterConfig.from_dict(_fields_of(start) | fields)
    settings = options.build(TrainingSettings, context)
    if not 0 < test_fraction < 1:
        raise ConfigError(
            f"--test-fraction must be between 0 and 1, got {test_fraction}. Give 0.2 for a fifth."
        )
    kind = default_task(model) if task is None else find_task(task)
    spec = options.data_spec(context)
    rows = load_task_rows(kind, spec)
    labels = kind.labels_of(rows)
    if test_data is None:
        train_rows, test_rows = split_rows(kind, rows, test_size=test_fraction, seed=seed)
    else:
        train_rows = rows
        test_spec = replace(spec, source=test_data, split=test_split, limit=None)
        test_rows = load_task_rows(kind, test_spec, labels=labels)
    seed_everything(seed)
    learner = kind.load(model, labels, max_length=max_length)
    if start is None:
        attach(learner.model, config)
    else:
        attach_pretrained(learner.model, start, config)
    counts = count_parameters(learner.model)
    messages.print(
        f"{len(train_rows):,} training and {len(test_rows):,} test rows, "
        f"{f'{len(labels)} classes' if labels else kind.name}; "
        f"{counts.new:,} new parameters ({counts.new_share:.1%} of the model)"
    )
    finetune(learner, train_rows, output=output, settings=settings, resume=resume)
    save_task(learner, output / "adapter", base_model=model)
    metrics = learner.score(predict(learner, test_rows, show_progress=True), test_rows)
    measurement = Measurement(
        command=options.command_line(context),
        data=test_data or data,
        part=f"{test_fraction:.0%} held out" if test_data is None else test_split,
        rows=len(test_rows),
        reduction_factor=config.default_reduction_factor,
        metrics=metrics,
    )
    record_measurements(output / "adapter", [measurement])
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


def _fields_of(directory: Path | None) -> dict[str, Any]:
    """Fields of the configuration of a pretrained adapter, without its head."""
    if directory is None:
        return {}
    stored = read_adapter_config(directory)
    fields = ConditionalAdapterConfig.__dataclass_fields__
    return {key: stored[key] for key in fields if key in stored} | {"modules_to_save": None}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch before new parameters are initialised."""
    from transformers import set_seed

    set_seed(seed)
