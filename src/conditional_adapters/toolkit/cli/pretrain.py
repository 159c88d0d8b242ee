"""`coda pretrain`: train a task-agnostic adapter on unlabelled data."""

from typing import Annotated, Any

import typer
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from ...analysis import count_parameters
from ...checkpoint.save_load import save_adapter
from ...config import ConditionalAdapterConfig
from ...errors import ConfigError
from ...hub.model_card import write_model_card
from ...model.attach import attach
from ...training import (
    Distillation,
    MaskedLanguageModelling,
    MaskedPatches,
    Objective,
    PretrainingSettings,
    SpanCorruption,
)
from ...training import pretrain as run_pretraining
from ..tasks.data import load_rows, stream_rows
from ..tasks.models import Backbone, load_backbone, modality_of, save_backbone
from . import _options as options
from ._console import messages, print_json, print_table
from .train import seed_everything

_CONFIG = ConditionalAdapterConfig()
_SETTINGS = PretrainingSettings()
# Head and modality of each objective.
_HEADS: dict[str, tuple[type | None, str | None]] = {
    "distillation": (None, None),
    "masked-words": (AutoModelForMaskedLM, "text"),
    "spans": (AutoModelForSeq2SeqLM, "text"),
    "masked-patches": (None, "image"),
}


def pretrain(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    output: options.Output,
    objective: Annotated[
        str,
        typer.Option(
            metavar=f"[{'|'.join(_HEADS)}]",
            help="Training target: hidden states of the dense model, masked words (BERT), masked "
            "spans (T5), or hidden states of masked patches.",
        ),
    ] = "distillation",
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    stream: Annotated[
        bool,
        options.data_option(
            help="Read rows during training, for data larger than memory. By default, all rows are "
            "read and checked first."
        ),
    ] = False,
    max_length: options.MaxLength = None,
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
    max_steps: Annotated[
        int, options.training_option("--steps", help="Number of training steps.")
    ] = _SETTINGS.max_steps,
    trainable: Annotated[
        str,
        options.training_option(
            metavar="[new_only|all]",
            help="Train adapter, routers and norms, or the pretrained weights as well.",
        ),
    ] = _SETTINGS.trainable,
    router_start: Annotated[
        str,
        options.training_option(
            metavar="[shared|salient]",
            help="Initialisation of learned routers: one random direction for all layers, or a "
            "preference for tokens whose update in the frozen layers is hard to predict.",
        ),
    ] = _SETTINGS.router_start,
    batch_size: options.StepSize = _SETTINGS.batch_size,
    learning_rate: options.LearningRate = _SETTINGS.learning_rate,
    router_learning_rate: options.RouterLearningRate = _SETTINGS.router_learning_rate,
    backbone_learning_rate: Annotated[
        float, options.training_option(help="Peak learning rate of the pretrained weights.")
    ] = _SETTINGS.backbone_learning_rate,
    schedule: options.Schedule = _SETTINGS.schedule,
    save_every: Annotated[
        int, options.training_option(help="Steps between checkpoints.")
    ] = _SETTINGS.save_every,
    log_every: Annotated[
        int, options.training_option(help="Steps between log entries.")
    ] = _SETTINGS.log_every,
    seed: options.Seed = _SETTINGS.seed,
    gradient_checkpointing: options.GradientCheckpointing = _SETTINGS.gradient_checkpointing,
    bf16: options.Bf16 = _SETTINGS.bf16,
    resume: options.Resume = False,
    as_json: options.AsJson = False,
) -> None:
    """Pretrain an adapter on unlabelled texts, images or recordings.

    Writes OUTPUT/adapter, for load_adapter and coda train --init, and with --trainable all
    OUTPUT/model, the trained backbone of this adapter. A run with --resume gives the same result as
    an uninterrupted one.
    """
    config = ConditionalAdapterConfig.from_dict(options.adapter_fields(context))
    settings = options.build(PretrainingSettings, context)
    modality = modality_of(model)
    if objective not in _HEADS or _HEADS[objective][1] not in (None, modality):
        usable = [name for name, (_, kind) in _HEADS.items() if kind in (None, modality)]
        raise ConfigError(
            f"--objective must be one of {', '.join(usable)} for a model of {modality}, got "
            f"{objective!r}. Leave it out for distillation."
        )
    spec = options.data_spec(context)
    rows: Any = (
        stream_rows(spec, modality=modality)
        if stream
        else load_rows(spec, modality=modality, require_labels=False)
    )
    seed_everything(seed)
    backbone = load_backbone(model, head=_HEADS[objective][0], max_length=max_length)
    goal = _build_objective(objective, backbone, model if trainable == "all" else None)
    attach(backbone.model, config)
    counts = count_parameters(backbone.model)
    messages.print(
        f"{'streamed' if stream else f'{len(rows):,}'} rows, {max_steps:,} steps of {batch_size}; "
        f"{counts.new:,} new parameters ({counts.new_share:.1%} of the model)"
    )
    trainer = run_pretraining(
        backbone.model,
        rows,
        objective=goal,
        output=output,
        settings=settings,
        encode=backbone.preprocessor.encode,
        resume=resume,
    )
    if trainable == "all":
        save_backbone(backbone, output / "model")
    adapter = save_adapter(backbone.model, output / "adapter")
    write_model_card(adapter)
    history = [line for line in trainer.state.log_history if "loss" in line]
    summary = {
        "adapter": str(adapter),
        "steps": trainer.state.global_step,
        "new_parameters": counts.new,
        "first": history[0] if history else None,
        "last": history[-1] if history else None,
    }
    if as_json:
        print_json(summary)
    elif history:
        names = [name for name in history[-1] if name.startswith(("loss", "router/"))]
        print_table(f"Saved {adapter}", [_row(line, names) for line in (history[0], history[-1])])


def _build_objective(name: str, backbone: Backbone, teacher_name: str | None) -> Objective:
    """Make an objective; a backbone that trains needs a second model as its teacher."""
    preprocessor = backbone.preprocessor
    if name == "masked-words":
        return MaskedLanguageModelling(preprocessor.processor)
    if name == "spans":
        return SpanCorruption(preprocessor.processor)
    teacher = None if teacher_name is None else load_backbone(teacher_name).model
    if teacher is not None:
        teacher.requires_grad_(False)
    if name == "distillation":
        return Distillation(pad=preprocessor.collate, teacher=teacher)
    config: Any = backbone.model.config
    return MaskedPatches(
        patch_size=getattr(config, "vision_config", config).patch_size,
        pad=preprocessor.collate,
        teacher=teacher,
    )


def _row(line: dict[str, float], names: list[str]) -> dict[str, str]:
    cells = {"step": f"{line['step']:,}"}
    for name in names:
        title = name.removeprefix("router/").replace("/", ", ").replace("_", " ")
        cells[title] = f"{line[name]:.4g}"
    return cells
