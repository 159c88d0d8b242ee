"""Pretrain a task-agnostic adapter by distillation, as a `pretraining.yaml` says."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from conditional_adapters import ConditionalAdapterConfig, attach, count_parameters, save_adapter
from conditional_adapters.tasks.kinds import default_task
from conditional_adapters.tasks.models import load_backbone, save_backbone
from conditional_adapters.training import Distillation, PretrainingSettings, pretrain

from ._config import Pretraining
from ._data import join_recordings, unlabelled_rows

if TYPE_CHECKING:
    import datasets


def run_pretraining(pretraining: Pretraining, output: Path, *, resume: bool) -> dict[str, Any]:
    """Pretrain and save the adapter.

    Args:
        pretraining: What to do.
        output: Folder for the adapter, checkpoints and the TensorBoard log.
        resume: Go on from the last checkpoint in it.

    Returns:
        What the results keep.
    """
    from transformers import set_seed

    settings = PretrainingSettings(**pretraining.settings)
    rows = _load_rows(pretraining)
    set_seed(settings.seed)
    backbone = load_backbone(pretraining.model, max_length=pretraining.max_length)
    trains_all = settings.trainable == "all"
    teacher = load_backbone(pretraining.model).model.requires_grad_(False) if trains_all else None
    attach(backbone.model, ConditionalAdapterConfig.from_dict(pretraining.adapter))
    objective = Distillation(
        pad=backbone.preprocessor.collate,
        layer_weight=pretraining.layer_weight,
        final_weight=pretraining.final_weight,
        teacher=teacher,
    )
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


def _load_rows(pretraining: Pretraining) -> "datasets.Dataset":
    """Read the training parts, one after the other; pretraining shuffles them."""
    import datasets

    kind = default_task(pretraining.model)
    rows = datasets.concatenate_datasets([unlabelled_rows(data, kind) for data in pretraining.data])
    if not pretraining.joined_rows:
        return rows
    joined = join_recordings(rows, pretraining.joined_rows, seed=0)
    return datasets.concatenate_datasets([rows, joined])
