"""CoDA pretraining: teach routers and adapters to stand in for the skipped layers, without labels.

A step is a function of the seed and its number: the rows it sees, what is masked in them, dropout
and the sampled reduction factor. A run that is killed and resumed therefore has the losses of one
that was not.
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
from .trainer import ConditionalTrainer, check_settings, checkpoint_to_resume, trainer_arguments

if TYPE_CHECKING:
    import datasets

Trainable = Literal["new_only", "all"]
RouterStart = Literal["shared", "salient"]

_MASKS, _STEPS = 1, 2  # set the randomness of batches apart from that of steps


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingSettings:
    """How long and how fast to pretrain. Defaults are our choice (docs/decisions/0007)."""

    max_steps: int = 20_000  # >= 1; the paper found 20,000 to be enough
    batch_size: int = 8  # rows per step, >= 1
    learning_rate: float = 1e-3  # peak, of adapters and norms, > 0
    router_learning_rate: float = 1e-3  # peak, of routers, > 0
    backbone_learning_rate: float = 1e-4  # peak, of the pretrained weights if they train, > 0
    schedule: str = "linear"  # a name that transformers knows: "linear", "cosine", "constant", ...
    warmup: float = 0.06  # share of the steps, in [0, 1)
    weight_decay: float = 0.0  # >= 0
    # What trains: adapters, routers and norms, or the pretrained weights as well.
    trainable: Trainable = "new_only"
    # What routers choose at first: one random direction for all layers, or salient tokens
    # (`start_routers`), which are found on rows that are read before the first step.
    router_start: RouterStart = "shared"
    router_start_rows: int = 32  # >= 1
    save_every: int = 500  # steps between checkpoints, a multiple of log_every
    log_every: int = 10  # steps between lines of the log, >= 1
    shuffle_window: int = 10_000  # rows in memory to shuffle a stream with, >= 1
    seed: int = 0  # of order, masks, dropout and reduction factors, >= 0
    gradient_checkpointing: bool = False  # less memory, a second forward pass per step
    bf16: bool = False  # mixed precision, on hardware that has it

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        is_multiple = self.log_every >= 1 and self.save_every >= 1
        is_multiple = is_multiple and self.save_every % self.log_every == 0
        more = {
            "max_steps": (self.max_steps >= 1, "at least 1"),
            "backbone_learning_rate": (self.backbone_learning_rate > 0, "above 0"),
            "trainable": (self.trainable in get_args(Trainable), "'new_only' or 'all'"),
            "router_start": (self.router_start in get_args(RouterStart), "'shared' or 'salient'"),
            "router_start_rows": (self.router_start_rows >= 1, "at least 1"),
            "log_every": (self.log_every >= 1, "at least 1"),
            # A resumed run then logs means over the same steps as an uninterrupted one.
            "save_every": (is_multiple, f"a multiple of log_every ({self.log_every})"),
            "shuffle_window": (self.shuffle_window >= 1, "at least 1"),
            "seed": (self.seed >= 0, "at least 0"),
        }
        check_settings(self, more)


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
            An elastic one samples its reduction factor anew for each step.
        rows: A `datasets.Dataset`; or, for data larger than memory, a `datasets.IterableDataset`
            or anything else that can be iterated over again and again and gives mappings.
        objective: What to minimise.
        output: Folder for checkpoints and the TensorBoard log.
        settings: How to train.
        encode: Turns columns of rows into columns of model input, a few rows at a time; None if
            the rows are model input already.
        resume: Go on from the last complete checkpoint in `output`. Checkpoints hold what trains
            and the state of the optimiser, not the frozen model.
        callbacks: Further callbacks for Trainer.

    Returns:
        The Trainer, after training. Its `state.log_history` has the losses, their parts, and what
        the routers did. `save_adapter` saves the result.

    Raises:
        ConfigError: If there is nothing to resume from, or the objective and what trains do not
            go together.
        AttachmentError: If the model has no active adapter.
        DataError: If there are no rows.
    """
    active_adapter(model)
    if settings.trainable == "all":
        _unfreeze(model, objective)
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
    """Do as `pretrain`, with any model and whatever of it is trainable.

    Args:
        model: A model, with adapters or without.
        rows: As in `pretrain`.
        objective: What to minimise.
        output: Folder for checkpoints and the TensorBoard log.
        settings: How to train.
        encode: As in `pretrain`.
        resume: Go on from the last complete checkpoint in `output`.
        callbacks: Further callbacks for Trainer.
        optimizer: Instead of AdamW; the learning rates of the settings are not used then.

    Returns:
        The Trainer, after training.

    Raises:
        ConfigError: If there is nothing to resume from, or there are several devices.
        DataError: If there are no rows.
    """
    checkpoint = checkpoint_to_resume(output, is_wanted=resume)
    arguments = trainer_arguments(
        output,
        settings,
        num_steps=settings.max_steps,
        max_steps=settings.max_steps,
        save_strategy="steps",
        save_steps=settings.save_every,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        ignore_data_skip=True,  # the stream starts at the right place itself
    )
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        raise ConfigError(
            f"pretraining runs on one device, got {max(arguments.world_size, arguments.n_gpu)}. "
            "Choose one with CUDA_VISIBLE_DEVICES."
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
        _start_routers(model, stream, collator, settings)
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
    """Minimise an objective; every step has random numbers of its own."""

    def __init__(self, *args: Any, objective: Objective, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.objective = objective
        self._parts: list[Mapping[str, Tensor]] = []

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Seed dropout and the sampled reduction factor by the number of the step."""
        set_seed(_mix(self.args.seed, _STEPS, self.state.global_step) % 2**32)
        return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Ask the objective."""
        with self.accelerator.autocast():
            loss = self.objective.loss(self.model, inputs)
        self._parts.append(loss.parts)
        return loss.total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each part since the last line."""
        if "loss" in logs:
            for name in self._parts[0] if self._parts else ():
                values = [float(parts[name]) for parts in self._parts]
                logs[f"loss/{name}"] = sum(values) / len(values)
            self._parts.clear()
        self.state.epoch = None  # rows are endless; what counts is the step
        super().log(logs, start_time)


@dataclass(frozen=True)
class _SeededCollator:
    """Let an objective make batches whose randomness depends on their place in the training."""

    objective: Objective
    seed: int

    def __call__(self, examples: Examples) -> Batch:
        place = examples[0][POSITION]
        generator = torch.Generator().manual_seed(_mix(self.seed, _MASKS, place))
        plain = [{k: v for k, v in example.items() if k != POSITION} for example in examples]
        return self.objective.collate(plain, generator)


def _start_routers(
    model: PreTrainedModel,
    stream: EndlessRows,
    collator: _SeededCollator,
    settings: PretrainingSettings,
) -> None:
    """Let the routers start at salient tokens of the first rows."""
    examples = list(islice(stream, settings.router_start_rows))
    size = settings.batch_size
    batches = [collator(examples[i : i + size]) for i in range(0, len(examples), size)]
    inputs = [
        {key: value.to(model.device) for key, value in collator.objective.inputs(batch).items()}
        for batch in batches
    ]
    start_routers(model, inputs)


def _mix(*numbers: int) -> int:
    """Make one seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _rows_seen(checkpoint: str | None) -> int:
    if checkpoint is None:
        return 0
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    return int(state.global_step * (state.train_batch_size or 0))


def _unfreeze(model: PreTrainedModel, objective: Objective) -> None:
    if objective.needs_frozen_backbone:
        raise ConfigError(
            f"trainable='all' changes the dense model, which is the teacher of "
            f"{type(objective).__name__}. Give the objective a teacher: another copy of the "
            "dense model."
        )
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
