"""CoDA pretraining: train routers and adapters to replace the skipped layers, without labels.

The randomness of a step (its rows, masks, dropout and sampled reduction factor) depends only on the
seed and the number of the step. A killed and resumed run therefore has the losses of an
uninterrupted one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, set_seed

from ..errors import ConfigError
from ..model.attachment import active_adapter
from .objectives import Batch, Examples, Objective
from .router_start import start_routers
from .stream import POSITION, Columns, EndlessRows
from .trainer import ConditionalTrainer, OptimiserSettings, last_checkpoint

if TYPE_CHECKING:
    import datasets

Trainable = Literal["new_only", "all"]
RouterStart = Literal["shared", "salient"]

_MASKS, _STEPS = 1, 2  # to seed batches and steps differently


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingSettings(OptimiserSettings):
    """Settings of pretraining. Defaults are our choice (docs/decisions/0007)."""

    learning_rate: float = 1e-3
    router_learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4  # peak, of pretrained weights if they are trained, > 0
    max_steps: int = 20_000  # >= 1; enough according to the paper
    # Train adapters, routers and norms only, or the pretrained weights as well.
    trainable: Trainable = "new_only"
    # Start routers at one random direction for all layers, or at salient tokens
    # (`start_routers`), which are found on rows that are read before the first step.
    router_start: RouterStart = "shared"
    router_start_rows: int = 32  # >= 1
    save_every: int = 500  # steps between checkpoints, a multiple of log_every
    log_every: int = 10  # steps between log lines, >= 1
    shuffle_window: int = 10_000  # rows in memory to shuffle a stream with, >= 1

    def _limits(self) -> dict[str, tuple[bool, str]]:
        is_multiple = self.log_every >= 1 and self.save_every >= 1
        is_multiple = is_multiple and self.save_every % self.log_every == 0
        return {
            "max_steps": (self.max_steps >= 1, "at least 1"),
            "backbone_learning_rate": (self.backbone_learning_rate > 0, "above 0"),
            "trainable": (self.trainable in get_args(Trainable), "'new_only' or 'all'"),
            "router_start": (self.router_start in get_args(RouterStart), "'shared' or 'salient'"),
            "router_start_rows": (self.router_start_rows >= 1, "at least 1"),
            "log_every": (self.log_every >= 1, "at least 1"),
            # So that a resumed run logs means over the same steps as an uninterrupted one.
            "save_every": (is_multiple, f"a multiple of log_every ({self.log_every})"),
            "shuffle_window": (self.shuffle_window >= 1, "at least 1"),
            "seed": (self.seed >= 0, "at least 0"),
        }


def pretrain(
    model: PreTrainedModel,
    rows: "datasets.Dataset | Iterable[Mapping[str, Any]]",
    *,
    objective: Objective,
    output: Path,
    settings: PretrainingSettings,
    encode: Callable[[Columns], Columns] | None = None,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> Trainer:
    """Pretrain the active adapter of a conditional model on unlabelled data.

    Args:
        model: A model that `attach` was called on; changed in place and left in evaluation mode.
            With an elastic adapter each step samples a reduction factor.
        rows: A `datasets.Dataset`; or, for data larger than memory, a `datasets.IterableDataset`
            or any other iterable of mappings that can be iterated over repeatedly.
        objective: The objective to minimise.
        output: Folder for checkpoints and the TensorBoard log.
        settings: Settings of the training.
        encode: Turns columns of rows into columns of model input, a few rows at a time; None if
            no encoding is needed.
        resume: Continue from the last complete checkpoint in `output`. Checkpoints hold the trained
            tensors and the state of the optimiser, not the frozen model.
        callbacks: Further callbacks for Trainer.

    Returns:
        The Trainer, after training. Its `state.log_history` has the losses, their terms, and
        router statistics. `save_adapter` saves the result.

    Raises:
        ConfigError: If there is nothing to resume from, there are several devices, or the objective
            needs a frozen backbone that `settings.trainable` would train.
        AttachmentError: If the model has no active adapter.
        DataError: If there are no rows.
    """
    active_adapter(model)
    if settings.trainable == "all":
        if objective.needs_frozen_backbone:
            raise ConfigError(
                f"trainable='all' changes the dense model, which is the teacher of "
                f"{type(objective).__name__}. Pass the objective another copy of the dense model "
                "as its teacher."
            )
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_()
    return minimise(
        model,
        rows,
        objective=objective,
        output=output,
        settings=settings,
        encode=encode,
        resume=resume,
        callbacks=callbacks,
    )


def minimise(
    model: PreTrainedModel,
    rows: "datasets.Dataset | Iterable[Mapping[str, Any]]",
    *,
    objective: Objective,
    output: Path,
    settings: PretrainingSettings,
    encode: Callable[[Columns], Columns] | None = None,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
    optimizer: torch.optim.Optimizer | None = None,
) -> Trainer:
    """Pretrain as `pretrain` does, but any model; `optimizer` replaces AdamW and its rates."""
    checkpoint = last_checkpoint(output) if resume else None
    arguments = settings.trainer_arguments(
        output,
        num_steps=settings.max_steps,
        max_steps=settings.max_steps,
        save_strategy="steps",
        save_steps=settings.save_every,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        ignore_data_skip=True,  # the stream starts at the right position itself
    )
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        raise ConfigError(
            f"pretraining needs exactly one device, got "
            f"{max(arguments.world_size, arguments.n_gpu)}. Choose one with CUDA_VISIBLE_DEVICES."
        )
    set_seed(settings.seed)
    stream = EndlessRows(
        rows,
        encode,
        seed=settings.seed,
        window=settings.shuffle_window,
        chunk=settings.batch_size,
        first=_rows_seen(checkpoint),
    )
    collator = _SeededCollator(objective, settings.seed)
    if settings.router_start == "salient" and checkpoint is None:
        examples = list(islice(stream, settings.router_start_rows))
        size = settings.batch_size
        batches = [collator(examples[i : i + size]) for i in range(0, len(examples), size)]
        inputs = [
            {key: value.to(model.device) for key, value in objective.inputs(batch).items()}
            for batch in batches
        ]
        start_routers(model, inputs)
    trainer = _PretrainingTrainer(
        model=model,
        args=arguments,
        train_dataset=stream,
        data_collator=collator,
        callbacks=list(callbacks),
        objective=objective,
        router_learning_rate=settings.router_learning_rate,
        backbone_learning_rate=settings.backbone_learning_rate,
        optimizers=(optimizer, None),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    model.eval()
    return trainer


class _PretrainingTrainer(ConditionalTrainer):
    """Minimise an objective, with randomness that depends on the step."""

    def __init__(self, *args: Any, objective: Objective, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.objective = objective
        self._parts: list[Mapping[str, Tensor]] = []

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Seed dropout and the sampled reduction factor with the number of the step."""
        set_seed(_mix(self.args.seed, _STEPS, self.state.global_step) % 2**32)
        return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Compute the loss of the objective."""
        with self.accelerator.autocast():
            loss = self.objective.loss(self.model, inputs)
        self._parts.append(loss.parts)
        return loss.total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each term of the loss since the last log line."""
        if "loss" in logs:
            for name in self._parts[0] if self._parts else ():
                values = [float(parts[name]) for parts in self._parts]
                logs[f"loss/{name}"] = sum(values) / len(values)
            self._parts.clear()
        self.state.epoch = None  # the stream is endless, only steps are counted
        super().log(logs, start_time)


@dataclass(frozen=True)
class _SeededCollator:
    """Collator of an objective, with randomness that depends on the position of the batch."""

    objective: Objective
    seed: int

    def __call__(self, examples: Examples) -> Batch:
        position = examples[0][POSITION]
        generator = torch.Generator().manual_seed(_mix(self.seed, _MASKS, position))
        plain = [{k: v for k, v in example.items() if k != POSITION} for example in examples]
        return self.objective.collate(plain, generator)


def _mix(*numbers: int) -> int:
    """Hash several numbers to one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _rows_seen(checkpoint: str | None) -> int:
    if checkpoint is None:
        return 0
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    return int(state.global_step * (state.train_batch_size or 0))
