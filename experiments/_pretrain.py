"""Pretrain a task-agnostic adapter, as a `pretraining.yaml` says."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForSeq2SeqLM

from conditional_adapters import ConditionalAdapterConfig, attach, count_parameters, save_adapter
from conditional_adapters.checkpoint.save_load import attach_pretrained
from conditional_adapters.toolkit.tasks.models import Backbone, load_backbone, save_backbone
from conditional_adapters.training import (
    Distillation,
    PretrainingSettings,
    SpanCorruption,
    pretrain,
)
from conditional_adapters.training.objectives import Objective

from ._config import Pretraining
from ._data import join_recordings, unlabelled_rows
from ._methods import model_name, pretrained

if TYPE_CHECKING:
    import datasets


def run_pretraining(
    pretraining: Pretraining, workspace: Path, output: Path, *, resume: bool
) -> dict[str, Any]:
    """Pretrain and save the adapter.

    Args:
        pretraining: What to do.
        workspace: Where models of our own are, and what it starts from.
        output: Folder for the adapter, checkpoints and the TensorBoard log.
        resume: Go on from the last checkpoint in it.

    Returns:
        What the results keep.
    """
    from transformers import set_seed

    settings = PretrainingSettings(**pretraining.settings)
    rows = _load_rows(pretraining)
    set_seed(settings.seed)
    dense = name = model_name(pretraining.model, workspace)
    config, before = ConditionalAdapterConfig.from_dict(pretraining.adapter), None
    if pretraining.start is not None:
        name, before = pretrained(pretraining.start, pretraining.model, workspace)
    head = AutoModelForSeq2SeqLM if pretraining.objective == "spans" else None
    backbone = load_backbone(name, head=head, max_length=pretraining.max_length)
    trains_all = settings.trainable == "all"
    objective = _objective(pretraining, backbone, dense if trains_all else None)
    if before is None:
        attach(backbone.model, config)
    else:
        attach_pretrained(backbone.model, before, config)
    start = perf_counter()
    trainer = pretrain(
        backbone.model,
        rows,
        objective=objective,
        output=output,
        settings=settings,
        encode=backbone.preprocessor.encode,
        resume=resume,
    )
    seconds = perf_counter() - start
    if trains_all:
        save_backbone(backbone, output / "model")
    save_adapter(backbone.model, output / "adapter")
    counts = count_parameters(backbone.model)
    return {
        "rows": len(rows),
        "training_seconds": round(seconds, 1),
        "new_parameters": counts.new,
        "new_parameters_share": counts.new_share,
        "log": [line for line in trainer.state.log_history if "loss" in line],
    }


def _objective(pretraining: Pretraining, backbone: Backbone, teacher_name: str | None) -> Objective:
    """Make the objective; where the backbone trains, a teacher is a second model."""
    if pretraining.objective == "spans":
        return SpanCorruption(backbone.preprocessor.processor)
    teacher = None if teacher_name is None else load_backbone(teacher_name).model
    return Distillation(
        pad=backbone.preprocessor.collate,
        layer_weight=pretraining.layer_weight,
        final_weight=pretraining.final_weight,
        teacher=None if teacher is None else teacher.requires_grad_(False),
    )


def _load_rows(pretraining: Pretraining) -> "datasets.Dataset":
    """Read the training parts, one after the other; pretraining shuffles them."""
    import datasets

    kind = pretraining.kind
    rows = datasets.concatenate_datasets([unlabelled_rows(data, kind) for data in pretraining.data])
    if not pretraining.joined_rows:
        return rows
    joined = join_recordings(rows, pretraining.joined_rows, seed=0)
    return datasets.concatenate_datasets([rows, joined])
