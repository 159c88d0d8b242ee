"""Trainer of transformers, extended for conditional adapters, and the settings of all training.

`ConditionalTrainer` has separate learning rates for routers and backbone, logs router statistics,
and writes small checkpoints: trainable parameters and buffers only, nothing of the frozen model.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserSettings(ABC):
    """Settings that fine-tuning and pretraining share."""

    learning_rate: float  # peak, of adapters, norms and head, > 0
    router_learning_rate: float  # peak, of routers, > 0
    batch_size: int = 8  # examples per step, >= 1
    schedule: str = "linear"  # of transformers: "linear", "cosine", "constant", ...
    warmup: float = 0.06  # share of the steps, in [0, 1)
    weight_decay: float = 0.0  # >= 0
    seed: int = 0  # of order, dropout, masks and sampled reduction factors
    gradient_checkpointing: bool = False  # less memory, a second forward pass per step
    bf16: bool = False  # mixed precision, if the hardware supports it

    @abstractmethod
    def _limits(self) -> dict[str, tuple[bool, str]]:
        """For each field of the subclass, whether its value is valid and what is allowed."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        limits = {
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "router_learning_rate": (self.router_learning_rate > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            **self._limits(),
        }
        for name, (is_valid, allowed) in limits.items():
            if not is_valid:
                raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}.")

    def trainer_arguments(
        self,
        output: Path,
        *,
        num_steps: int,
        **more: Any,  # noqa: ANN401
    ) -> TrainingArguments:
        """Translate the settings into arguments of Trainer; `more` are further ones."""
        return TrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.schedule,
            warmup_steps=round(self.warmup * num_steps),
            weight_decay=self.weight_decay,
            seed=self.seed,
            data_seed=self.seed,
            activation_checkpointing=self.gradient_checkpointing,
            bf16=self.bf16,
            save_total_limit=1,
            report_to=["tensorboard"],
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            **more,
        )


def last_checkpoint(output: Path) -> str:
    """Find the last complete checkpoint; a process may be killed while it writes one."""
    complete = [path for path in output.glob("checkpoint-*") if _is_complete(path)]
    if not complete:
        raise ConfigError(
            f"nothing to resume: {output} has no complete checkpoint. Leave out --resume."
        )
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2])))


def _is_complete(checkpoint: Path) -> bool:
    try:
        TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
    except (OSError, ValueError, TypeError):
        return False
    return True


class _Progress(ProgressCallback):
    """Progress bar of Trainer that shows the loss, instead of log lines on standard output."""

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
        router_learning_rate: Peak learning rate of the routers; None means `learning_rate`.
        backbone_learning_rate: Peak learning rate of pretrained parameters, if they are trainable;
            None means `learning_rate`.
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
        """Create Trainer's optimiser, then split routers and backbone into separate groups."""
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
        """Options of the optimiser for a parameter, if they differ from those of its group."""
        if ".router." in name and self.router_learning_rate is not None:
            return {"lr": self.router_learning_rate, "weight_decay": 0.0}
        is_new = ".coda_adapters." in name or ".coda_copies." in name
        if not is_new and self.backbone_learning_rate is not None:
            return {"lr": self.backbone_learning_rate}
        return {}

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Run a step, and record the routing if the step will be logged."""
        is_logged = (self.state.global_step + 1) % self.state.logging_steps == 0
        attachment = get_attachment(self.model) if is_attached(self.model) else None
        loss: Tensor
        if not is_logged or attachment is None or attachment.active is None:
            loss = super().training_step(*args, **kwargs)
            return loss
        with record_routing(self.model) as routing:
            loss = super().training_step(*args, **kwargs)
        self._router_statistics = router_statistics(
            routing.layers,
            epsilon=attachment.configs[attachment.active].epsilon,
            token_mask=routing.token_mask,
        )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add router statistics to the log of a step."""
        if "loss" in logs and self._router_statistics is not None:
            for name, value in asdict(self._router_statistics).items():
                if value is not None and math.isfinite(value):
                    logs[f"router/{name}"] = value
            self._router_statistics = None
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        """Write the trained tensors of a checkpoint."""
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().clone() for k, v in _trained_tensors(self.model).items()}
        save_file(tensors, target / _TENSORS_FILE, metadata={"format": "pt"})

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Read the trained tensors of a checkpoint."""
        stored = load_file(Path(resume_from_checkpoint) / _TENSORS_FILE)
        tensors = _trained_tensors(model or self.model)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        if {key: tensor.shape for key, tensor in stored.items()} != shapes:
            raise CheckpointError(
                f"{resume_from_checkpoint} holds {len(stored)} tensors, whose names or shapes are "
                f"not those of the {len(tensors)} tensors that train now. Use the model and the "
                "options of the interrupted run, or leave out --resume."
            )
        with torch.no_grad():
            for key, tensor in tensors.items():
                tensor.copy_(stored[key])


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, and buffers such as running means, by name."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors = {k: v for k, v in model.state_dict().items() if k not in parameters}
    return tensors | {name: p for name, p in model.named_parameters() if p.requires_grad}
