"""What all training here has in common: transformers' Trainer, taught what an adapter needs.

`ConditionalTrainer` gives routers and backbone learning rates of their own, logs how the routers
behave, and keeps checkpoints small: they hold what trains, and nothing of the frozen model. A
checkpoint counts only once it is complete, so a kill while one is written costs that one.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..analysis import RouterStatistics, record_routing, router_statistics
from ..errors import CheckpointError, ConfigError
from ..model.attachment import get_attachment, is_attached

_STATE_FILE = "trainer_state.json"  # the last file that Trainer writes into a checkpoint
_TENSORS_FILE = "model.safetensors"


class OptimiserSettings(Protocol):
    """The settings that fine-tuning and pretraining share."""

    @property
    def batch_size(self) -> int:
        """Rows per step."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of adapters, norms and head."""

    @property
    def router_learning_rate(self) -> float:
        """Peak learning rate of routers."""

    @property
    def schedule(self) -> str:
        """Name of a learning rate schedule of transformers."""

    @property
    def warmup(self) -> float:
        """Share of the steps, in [0, 1)."""

    @property
    def weight_decay(self) -> float:
        """Weight decay, >= 0."""

    @property
    def seed(self) -> int:
        """Seed of dropout and order."""

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether to recompute activations in the backward pass."""

    @property
    def bf16(self) -> bool:
        """Whether to train in mixed precision."""


def check_settings(settings: OptimiserSettings, more: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse settings outside their range.

    Args:
        settings: What to check.
        more: For further fields, whether the value is valid and what is allowed.

    Raises:
        ConfigError: If a value is outside its range.
    """
    limits = {
        "batch_size": (settings.batch_size >= 1, "at least 1"),
        "learning_rate": (settings.learning_rate > 0, "above 0"),
        "router_learning_rate": (settings.router_learning_rate > 0, "above 0"),
        "weight_decay": (settings.weight_decay >= 0, "at least 0"),
        "warmup": (0 <= settings.warmup < 1, "in [0, 1)"),
        **more,
    }
    for name, (is_valid, allowed) in limits.items():
        if not is_valid:
            raise ConfigError(f"{name} must be {allowed}, got {getattr(settings, name)!r}.")


def trainer_arguments(
    output: Path,
    settings: OptimiserSettings,
    *,
    num_steps: int,
    **more: Any,  # noqa: ANN401
) -> TrainingArguments:
    """Translate settings into those of Trainer.

    Args:
        output: Folder for checkpoints and the TensorBoard log.
        settings: How to train.
        num_steps: Steps of the whole training.
        **more: Further arguments of `TrainingArguments`.

    Returns:
        The arguments.
    """
    return TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * num_steps),
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        data_seed=settings.seed,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=settings.bf16,
        save_total_limit=1,
        report_to=["tensorboard"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **more,
    )


def checkpoint_to_resume(output: Path, *, is_wanted: bool) -> str | None:
    """Find the last complete checkpoint.

    Args:
        output: The folder of the training.
        is_wanted: Whether to resume at all.

    Returns:
        The path of the checkpoint; None if it is not wanted.

    Raises:
        ConfigError: If there is nothing to resume from.
    """
    if not is_wanted:
        return None
    complete = [path for path in output.glob("checkpoint-*") if _is_complete(path)]
    if not complete:
        raise ConfigError(f"nothing to resume: {output} has no checkpoint. Leave out --resume.")
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2])))


def _is_complete(checkpoint: Path) -> bool:
    try:
        TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
    except (OSError, ValueError, TypeError):
        return False
    return True


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
    """transformers' Trainer for models with conditional adapters.

    Args:
        *args: As `Trainer`.
        router_learning_rate: Peak learning rate of the routers; None means that of the rest.
        backbone_learning_rate: Peak learning rate of the pretrained parameters, where they train;
            None means that of the rest.
        **kwargs: As `Trainer`.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        router_learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.router_learning_rate = router_learning_rate
        self.backbone_learning_rate = backbone_learning_rate
        self._router_statistics: RouterStatistics | None = None
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.add_callback(_Progress)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make Trainer's optimiser, then give routers and backbone groups of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if not is_new:
            return optimizer
        overrides = {
            id(p): self._override(name) for name, p in (model or self.model).named_parameters()
        }
        groups: dict[tuple[int, str], dict[str, Any]] = {}
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                values = overrides[id(parameter)]
                key = (index, str(values))
                groups.setdefault(key, {**group, **values, "params": []})
                groups[key]["params"].append(parameter)
        optimizer.param_groups = list(groups.values())
        return optimizer

    def _override(self, name: str) -> dict[str, float]:
        """Return what sets a parameter apart from the others of its group."""
        if ".router." in name and self.router_learning_rate is not None:
            return {"lr": self.router_learning_rate, "weight_decay": 0.0}
        is_new = ".coda_adapters." in name or ".coda_copies." in name
        if not is_new and self.backbone_learning_rate is not None:
            return {"lr": self.backbone_learning_rate}
        return {}

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Do a step; if it will be logged, look at the routers."""
        is_logged = (self.state.global_step + 1) % self.state.logging_steps == 0
        attachment = get_attachment(self.model) if is_attached(self.model) else None
        if not is_logged or attachment is None or attachment.active is None:
            unseen: Tensor = super().training_step(*args, **kwargs)
            return unseen
        with record_routing(self.model) as routing:
            loss: Tensor = super().training_step(*args, **kwargs)
        self._router_statistics = router_statistics(
            routing.layers,
            epsilon=attachment.configs[attachment.active].epsilon,
            token_mask=routing.token_mask,
        )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the routers did to the logs of a step."""
        if "loss" in logs and self._router_statistics is not None:
            for name, value in asdict(self._router_statistics).items():
                if value is not None and math.isfinite(value):
                    logs[f"router/{name}"] = value
            self._router_statistics = None
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        """Write what trains into a checkpoint."""
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().clone() for k, v in _trained_tensors(self.model).items()}
        save_file(tensors, target / _TENSORS_FILE, metadata={"format": "pt"})

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Read what trains from a checkpoint."""
        stored = load_file(Path(resume_from_checkpoint) / _TENSORS_FILE)
        tensors = _trained_tensors(model or self.model)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        if {key: tensor.shape for key, tensor in stored.items()} != shapes:
            raise CheckpointError(
                f"{resume_from_checkpoint} holds {len(stored)} tensors, which are not the "
                f"{len(tensors)} that train now. Resume with the model and the options of the "
                "interrupted run, or leave out --resume."
            )
        with torch.no_grad():
            for key, tensor in tensors.items():
                tensor.copy_(stored[key])


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: trainable parameters, and buffers such as running means."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors = {k: v for k, v in model.state_dict().items() if k not in parameters}
    return tensors | {name: p for name, p in model.named_parameters() if p.requires_grad}
