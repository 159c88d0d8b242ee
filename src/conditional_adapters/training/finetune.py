"""Fine-tune a model for a task with conditional adapters.

transformers' Trainer does the work: progress bar, checkpoints, resuming, TensorBoard. This file
maps our settings to its arguments.
"""

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
    TrainingArguments,
    set_seed,
)

from .trainer import ConditionalTrainer, check_settings, checkpoint_to_resume, trainer_arguments

if TYPE_CHECKING:
    import datasets


class TrainableTask(Protocol):
    """The part of a task that training needs; `toolkit.tasks.task.Task` says more."""

    @property
    def model(self) -> PreTrainedModel:
        """A transformers model with the head of the task."""

    @property
    def chunk_size(self) -> int:
        """Number of rows that are encoded at a time."""

    @property
    def splits_rows(self) -> bool:
        """Whether a row may become several examples."""

    @property
    def trainer_metrics(self) -> Callable[[EvalPrediction], dict[str, float]] | None:
        """Metrics of the logits after each epoch; None means the loss alone."""

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn rows into unpadded examples with `labels`."""

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad examples and stack them into a batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """How long and how fast to train. Defaults are our choice (docs/decisions/0003)."""

    epochs: float = 3.0  # passes over the training data, > 0
    batch_size: int = 8  # rows per step, >= 1
    learning_rate: float = 2e-3  # peak, of adapters, norms and head, > 0
    router_learning_rate: float = 2e-3  # peak, of routers, > 0
    schedule: str = "linear"  # a name that transformers knows: "linear", "cosine", "constant", ...
    warmup: float = 0.06  # share of the steps, in [0, 1)
    weight_decay: float = 0.0  # >= 0
    seed: int = 0  # of dropout, order and new parameters
    gradient_checkpointing: bool = False  # less memory, a second forward pass per step
    bf16: bool = False  # mixed precision, on hardware that has it
    save_every_epoch: bool = True  # keep the latest checkpoint, to resume from

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_settings(self, {"epochs": (self.epochs > 0, "above 0")})


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
    """Train whatever is trainable in the model of a task.

    Args:
        task: A classifier or any other task. Its model, in training or evaluation mode, is changed
            in place and left in evaluation mode.
        train: Rows with targets, as `load_rows` and `load_task_rows` return.
        validation: Rows to evaluate after each epoch.
        output: Folder for checkpoints and the TensorBoard log.
        settings: How to train.
        resume: Go on from the last checkpoint in `output`.
        callbacks: Further callbacks for Trainer.

    Returns:
        The Trainer, after training.

    Raises:
        ConfigError: If there is nothing to resume from.
    """
    checkpoint = checkpoint_to_resume(output, is_wanted=resume)
    set_seed(settings.seed)
    examples = _examples(task, train)
    trainer = ConditionalTrainer(
        model=task.model,
        args=_arguments(
            output,
            settings,
            len(examples),
            has_validation=validation is not None,
            prediction_loss_only=task.trainer_metrics is None,
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


def lazily(
    rows: "datasets.Dataset", encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
) -> "datasets.Dataset":
    """Return the rows encoded whenever they are read, so that nothing is held twice."""
    return rows.with_transform(encode)


def _examples(task: TrainableTask, rows: "datasets.Dataset") -> "datasets.Dataset":
    """Return what the model trains on: the rows themselves, or the parts they are split into."""
    if not task.splits_rows:
        return lazily(rows, task.encode)
    import datasets

    starts = range(0, len(rows), task.chunk_size)
    parts = [task.encode(rows[start : start + task.chunk_size]) for start in starts]
    return datasets.concatenate_datasets([datasets.Dataset.from_dict(part) for part in parts])


def _arguments(
    output: Path,
    settings: TrainingSettings,
    num_examples: int,
    *,
    has_validation: bool,
    prediction_loss_only: bool,
) -> TrainingArguments:
    steps_per_epoch = -(-num_examples // settings.batch_size)
    num_steps = max(1, round(steps_per_epoch * settings.epochs))
    return trainer_arguments(
        output,
        settings,
        num_steps=num_steps,
        num_train_epochs=settings.epochs,
        per_device_eval_batch_size=2 * settings.batch_size,
        eval_strategy="epoch" if has_validation else "no",
        prediction_loss_only=prediction_loss_only,
        save_strategy="epoch" if settings.save_every_epoch else "no",
        logging_steps=max(1, min(10, num_steps // 10)),
    )
