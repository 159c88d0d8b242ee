"""Fine-tune a classifier with conditional adapters.

transformers' Trainer does the work: progress bar, checkpoints, resuming, TensorBoard. This file
maps our settings to its arguments and gives routers a learning rate of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from ..errors import ConfigError
from ..tasks.metrics import trainer_metrics
from ..tasks.models import Classifier

if TYPE_CHECKING:
    import datasets


_ALLOWED = {"batch_size": "at least 1", "weight_decay": "at least 0", "warmup": "in [0, 1)"}


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
        limits = {
            "epochs": self.epochs > 0,
            "batch_size": self.batch_size >= 1,
            "learning_rate": self.learning_rate > 0,
            "router_learning_rate": self.router_learning_rate > 0,
            "weight_decay": self.weight_decay >= 0,
            "warmup": 0 <= self.warmup < 1,
        }
        for name, is_valid in limits.items():
            if not is_valid:
                allowed = _ALLOWED.get(name, "above 0")
                raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}.")


class _Progress(ProgressCallback):
    """Trainer's progress bar, with the loss on the bar instead of in lines on standard output."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if self.training_bar is not None and logs is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


class ConditionalTrainer(Trainer):
    """transformers' Trainer with a learning rate for routers.

    Args:
        *args: As `Trainer`.
        router_learning_rate: Peak learning rate of the routers; None means that of the rest.
        **kwargs: As `Trainer`.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        router_learning_rate: float | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.router_learning_rate = router_learning_rate

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make Trainer's optimiser, then move the routers to a group of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and self.router_learning_rate is not None:
            named = (model or self.model).named_parameters()
            routers = {id(p) for name, p in named if ".router." in name and p.requires_grad}
            group = dict(optimizer.param_groups[-1])
            group["params"] = []
            group["lr"] = self.router_learning_rate
            for other in optimizer.param_groups:
                group["params"] += [p for p in other["params"] if id(p) in routers]
                other["params"] = [p for p in other["params"] if id(p) not in routers]
            optimizer.param_groups = [g for g in optimizer.param_groups if g["params"]]
            if group["params"]:
                optimizer.add_param_group(group)
        return optimizer


def finetune(
    classifier: Classifier,
    train: "datasets.Dataset",
    validation: "datasets.Dataset | None" = None,
    *,
    output: Path,
    settings: TrainingSettings,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> Trainer:
    """Train whatever is trainable in a classifier.

    Args:
        classifier: The model, in training or evaluation mode; it is changed in place and left in
            evaluation mode.
        train: Rows with labels, as `load_rows` returns.
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
    checkpoint = get_last_checkpoint(output) if resume and output.is_dir() else None
    if resume and checkpoint is None:
        raise ConfigError(f"nothing to resume: {output} has no checkpoint. Leave out --resume.")
    set_seed(settings.seed)
    trainer = ConditionalTrainer(
        model=classifier.model,
        args=_arguments(output, settings, len(train), has_validation=validation is not None),
        train_dataset=lazily(train, classifier.encode),
        eval_dataset=None if validation is None else lazily(validation, classifier.encode),
        data_collator=classifier.collate,
        compute_metrics=trainer_metrics,
        callbacks=list(callbacks),
        router_learning_rate=settings.router_learning_rate,
    )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Progress)
    trainer.train(resume_from_checkpoint=checkpoint)
    classifier.model.eval()
    return trainer


def lazily(
    rows: "datasets.Dataset", encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
) -> "datasets.Dataset":
    """Return the rows encoded whenever they are read, so that nothing is held twice."""
    return rows.with_transform(encode)


def _arguments(
    output: Path, settings: TrainingSettings, num_rows: int, *, has_validation: bool
) -> TrainingArguments:
    steps_per_epoch = -(-num_rows // settings.batch_size)
    num_steps = max(1, round(steps_per_epoch * settings.epochs))
    return TrainingArguments(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * num_steps),
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        data_seed=settings.seed,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=settings.bf16,
        eval_strategy="epoch" if has_validation else "no",
        save_strategy="epoch" if settings.save_every_epoch else "no",
        save_total_limit=1,
        logging_steps=max(1, min(10, num_steps // 10)),
        report_to=["tensorboard"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
