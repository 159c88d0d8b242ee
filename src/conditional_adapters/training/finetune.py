"""Fine-tune a model with conditional adapters for a task, by transformers' Trainer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    set_seed,
)

from .trainer import ConditionalTrainer, OptimiserSettings, last_checkpoint

if TYPE_CHECKING:
    import datasets


class TrainableTask(Protocol):
    """Interface of a task for training; `toolkit.tasks.task.Task` implements it."""

    @property
    def model(self) -> PreTrainedModel:
        """A transformers model with a task head."""

    @property
    def chunk_size(self) -> int:
        """Number of rows to encode at a time."""

    @property
    def splits_rows(self) -> bool:
        """Whether a row may give several examples."""

    @property
    def trainer_metrics(self) -> Callable[[EvalPrediction], dict[str, float]] | None:
        """Metrics of the logits after each epoch; None means the loss only."""

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Encode rows as unpadded examples with `labels`."""

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad examples and stack them into a batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings(OptimiserSettings):
    """Settings of fine-tuning. Defaults are our choice (docs/decisions/0003)."""

    learning_rate: float = 2e-3
    router_learning_rate: float = 2e-3
    epochs: float = 3.0  # > 0
    save_every_epoch: bool = True  # keep the last checkpoint, to resume from

    def _limits(self) -> dict[str, tuple[bool, str]]:
        return {"epochs": (self.epochs > 0, "above 0")}


def finetune(
    task: TrainableTask,
    train: "datasets.Dataset",
    validation: "datasets.Dataset | None" = None,
    *,
    output: Path,
    settings: TrainingSettings,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> Trainer:
    """Train the trainable parameters of a task's model.

    Args:
        task: The task. Its model is changed in place and left in evaluation mode.
        train: Rows with targets, as `load_rows` and `load_task_rows` return.
        validation: Rows to evaluate after each epoch.
        output: Folder for checkpoints and the TensorBoard log.
        settings: Settings of the training.
        resume: Continue from the last checkpoint in `output`.
        callbacks: Further callbacks for Trainer.

    Returns:
        The Trainer, after training.

    Raises:
        ConfigError: If there is nothing to resume from.
    """
    checkpoint = last_checkpoint(output) if resume else None
    set_seed(settings.seed)
    examples = _examples(task, train)
    num_steps = max(1, round(math.ceil(len(examples) / settings.batch_size) * settings.epochs))
    trainer = ConditionalTrainer(
        model=task.model,
        args=settings.trainer_arguments(
            output,
            num_steps=num_steps,
            num_train_epochs=settings.epochs,
            per_device_eval_batch_size=2 * settings.batch_size,
            eval_strategy="no" if validation is None else "epoch",
            prediction_loss_only=task.trainer_metrics is None,
            save_strategy="epoch" if settings.save_every_epoch else "no",
            logging_steps=max(1, min(10, num_steps // 10)),
        ),
        train_dataset=examples,
        eval_dataset=None if validation is None else _examples(task, validation),
        data_collator=task.collate,
        compute_metrics=task.trainer_metrics,
        callbacks=list(callbacks),
        router_learning_rate=settings.router_learning_rate,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    task.model.eval()
    return trainer


def _examples(task: TrainableTask, rows: "datasets.Dataset") -> "datasets.Dataset":
    """Encode rows: when they are read, or now if a row may give several examples."""
    if not task.splits_rows:
        return rows.with_transform(task.encode)
    import datasets

    starts = range(0, len(rows), task.chunk_size)
    chunks = [task.encode(rows[start : start + task.chunk_size]) for start in starts]
    return datasets.concatenate_datasets([datasets.Dataset.from_dict(chunk) for chunk in chunks])
