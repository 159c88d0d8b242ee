"""Configuration files of experiments: one model, one data set, and a row for each method."""

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from conditional_adapters import ConditionalAdapterConfig, read_adapter_config
from conditional_adapters.toolkit.assets import find_adapter
from conditional_adapters.toolkit.tasks.kinds import default_task
from conditional_adapters.toolkit.tasks.kinds.classification import TEXT_CLASSIFICATION
from conditional_adapters.toolkit.tasks.task import TaskKind
from conditional_adapters.training import PretrainingSettings, TrainingSettings

from ._label_writing import LABEL_WRITING

FOLDER = Path(__file__).resolve().parent
Method = Literal["adapter", "full", "probe", "lora"]
OWN = "own:"  # prefix of models from a `scratch.yaml`


class Strict(BaseModel):
    """A part of a file; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_File = TypeVar("_File", bound=Strict)


class Data(Strict):
    """Training and test data.

    Without `test_split`, `test_rows` rows are held out by class with a fixed seed. A validation
    part is always cut from the training rows; the test part is not touched while settings are
    chosen.
    """

    source: str
    split: str | None = None
    test_split: str | None = None
    test_rows: int | None = None
    train_rows: int | None = None  # a random part, by class
    evaluate_on: Literal["test", "validation"] = "test"
    validation_rows: int = 375  # cut from the training rows if that is what is evaluated


class Row(Strict):
    """One method of the comparison."""

    title: str
    group: str | None = None  # the table it stands in
    # A row that it is compared with besides the baseline; or one for each reduction factor.
    compare: str | dict[float, str] | None = None
    method: Method = "adapter"
    adapter: dict[str, Any] = Field(default_factory=dict)  # fields of ConditionalAdapterConfig
    init: str | None = None  # a pretrained adapter to start from
    pretraining: str | None = None  # or the model and the adapter that a pretraining left
    num_layers: int | None = None  # keep so many layers of the encoder, evenly
    max_length: int | None = None  # cut texts here instead
    rank: int = 8  # of LoRA
    training: dict[str, Any] = Field(default_factory=dict)  # differences from the experiment's
    # Evaluate an elastic adapter with each of these.
    reduction_factors: tuple[float, ...] = ()
    seeds: tuple[int, ...] | None = None  # differing from the experiment's

    def compared_with(self, factor: float | None) -> str | None:
        """The row to compare with at a reduction factor."""
        if not isinstance(self.compare, dict):
            return self.compare
        return None if factor is None else self.compare.get(factor)


class Scratch(Strict):
    """The contents of `scratch.yaml`: a T5 that is pretrained from nothing."""

    title: str
    data: tuple[Data, ...]  # training parts, whose rows are read without their labels
    vocabulary: int  # of the tokenizer, which is trained as well
    block: int  # tokens of a row
    model: dict[str, Any]  # fields of T5Config
    # Adafactor takes steps relative to the size of each parameter, as T5 was trained.
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    settings: dict[str, Any]  # fields of PretrainingSettings


class Pretraining(Strict):
    """The contents of `pretraining.yaml`: a task-agnostic adapter to start from."""

    title: str
    model: str
    start: str | None = None  # the pretraining that this one goes on from; else the dense model
    # Training parts whose rows are read without their labels; all rows where no part is for tests.
    data: tuple[Data, ...]
    max_length: int | None = None
    objective: Literal["distillation", "spans"] = "distillation"
    adapter: dict[str, Any]
    settings: dict[str, Any]  # fields of PretrainingSettings
    layer_weight: float = 1.0  # of Distillation
    final_weight: float = 1.0
    # Further recordings: several of the others after each other, with pauses, of 2 to 29 seconds.
    joined_rows: int = 0

    def values(self) -> dict[str, Any]:
        """All values that the result depends on."""
        values = _values(self, later=("start", "joined_rows", "objective"))
        if self.start is not None:
            values["start"] = load_pretraining(self.start).values()
        return values | _own_values(self.model)

    @property
    def trains_all(self) -> bool:
        """Whether the pretrained weights change as well."""
        return self.settings.get("trainable") == "all"

    @property
    def steps(self) -> int:
        """All steps since the dense model."""
        before = 0 if self.start is None else load_pretraining(self.start).steps
        return before + int(self.settings["max_steps"])

    @property
    def kind(self) -> TaskKind:
        """What reads the rows."""
        return _kind_of(self.model)


class Experiment(Strict):
    """The contents of `config.yaml`."""

    title: str
    question: str  # what the table answers, in a sentence
    model: str
    # What is done with the rows, if not what the model is usually for.
    task: Literal["label-writing"] | None = None
    data: Data
    max_length: int | None = None
    baseline: str  # the row that all others are compared with
    seeds: tuple[int, ...] = (0, 1, 2)
    timing_batch: int = 8
    # Of what is judged by its words: show rows of up to so many words apart from longer ones.
    words_apart: int | None = None
    training: dict[str, Any] = Field(default_factory=dict)  # fields of TrainingSettings
    learning_rates: tuple[float, ...] = (0.0001, 0.0005, 0.002, 0.008)  # of which `tune` chooses
    rows: dict[str, Row]
    # Chosen by `tune`, of adapters and routers alike. Not in the file.
    tuned: dict[str, float] = Field(default_factory=dict)

    @property
    def kind(self) -> TaskKind:
        """The task; by default that of the model."""
        return LABEL_WRITING if self.task == "label-writing" else _kind_of(self.model)

    def row_settings(self, name: str) -> tuple[Row, TrainingSettings]:
        """A row and its training settings, validated."""
        row = self.rows[name]
        if row.method == "adapter":
            ConditionalAdapterConfig.from_dict(row.adapter)
        return row, TrainingSettings(**self._training(name))

    def _training(self, name: str) -> dict[str, Any]:
        training = {**self.training, **self.rows[name].training}
        rate = self.tuned.get(name)
        usual = TrainingSettings(**training)
        if rate is not None and (usual.learning_rate, usual.router_learning_rate) != (rate, rate):
            training |= {"learning_rate": rate, "router_learning_rate": rate}
        return training

    def for_tuning(self) -> "Experiment":
        """The experiment without tuned rates, evaluated on validation data."""
        data = self.data.model_copy(update={"evaluate_on": "validation"})
        return self.model_copy(update={"data": data, "tuned": {}})

    def row_seeds(self, name: str) -> tuple[int, ...]:
        """The seeds of a row."""
        seeds = self.rows[name].seeds
        return self.seeds if seeds is None else seeds

    def digest(self, name: str) -> str:
        """Hash of all values that a row's result depends on; a changed row runs again."""
        row = _values(self.rows[name], later=("pretraining",))
        for presentation in ("title", "seeds", "group", "compare", "training"):
            del row[presentation]
        if row["init"] is not None:
            row["init"] = [row["init"], _adapter_digest(row["init"])]
        if "pretraining" in row:
            row["pretraining"] = load_pretraining(row["pretraining"]).values()
        training = self._training(name)
        shared = self.data.model_dump() | {"model": self.model, "max_length": self.max_length}
        shared |= _own_values(self.model) | ({} if self.task is None else {"task": self.task})
        text = json.dumps([row, training, shared], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kind_of(model: str) -> TaskKind:
    """The default task of a model; models from `scratch.yaml` read texts."""
    return TEXT_CLASSIFICATION if model.startswith(OWN) else default_task(model)


def _own_values(model: str) -> dict[str, Any]:
    """All values that a model from `scratch.yaml` depends on."""
    if not model.startswith(OWN):
        return {}
    scratch = _values(load_scratch(model.removeprefix(OWN)), later=("optimizer",))
    return {"scratch": {key: value for key, value in scratch.items() if key != "title"}}


def _values(part: Strict, *, later: Collection[str]) -> dict[str, Any]:
    """The fields, without defaults of fields added after the first results."""
    defaults = {name: field.default for name, field in type(part).model_fields.items()}
    values = part.model_dump()
    return {k: v for k, v in values.items() if k not in later or v != defaults[k]}


def _adapter_digest(name: str) -> str:
    digest: str = read_adapter_config(find_adapter(name))["tensors_sha256"]
    return digest[:16]


def load_pretraining(name: str) -> Pretraining:
    """Read and check a pretraining.

    Args:
        name: Its folder.

    Returns:
        The pretraining.

    Raises:
        SystemExit: If there is no such pretraining or its file is wrong.
    """
    pretraining = _read(Pretraining, name, "pretraining")
    with _naming(FOLDER / name / "pretraining.yaml"):
        ConditionalAdapterConfig.from_dict(pretraining.adapter)
        PretrainingSettings(**pretraining.settings)
    return pretraining


def load_scratch(name: str) -> Scratch:
    """Read and check how a model is pretrained from nothing.

    Args:
        name: Its folder.

    Returns:
        How.

    Raises:
        SystemExit: If there is no such model or its file is wrong.
    """
    scratch = _read(Scratch, name, "scratch")
    with _naming(FOLDER / name / "scratch.yaml"):
        PretrainingSettings(**scratch.settings)
    return scratch


def _read(kind: type[_File], name: str, what: str) -> _File:
    path = FOLDER / name / f"{what}.yaml"
    if not path.exists():
        known = sorted(file.parent.name for file in FOLDER.glob(f"*/{what}.yaml"))
        raise SystemExit(f"Unknown {what} {name!r}. There are: {', '.join(known)}.")
    with _naming(path):
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in which file the error is."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SystemExit(f"{path}: {error}") from error


def pretraining_of(row: Row) -> Pretraining | None:
    """The pretraining that a row starts from.

    Args:
        row: A row. An adapter of the package has the name of the pretraining that made it.

    Returns:
        The pretraining, None if there is none.
    """
    name = row.pretraining or (row.init and row.init.removeprefix("packaged:"))
    return load_pretraining(name) if name else None


def experiment_names() -> list[str]:
    """The names of all experiments."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.yaml"))


def load_experiment(name: str) -> Experiment:
    """Read and check an experiment.

    Args:
        name: Its folder.

    Returns:
        The experiment.

    Raises:
        SystemExit: If there is no such experiment or its file is wrong.
    """
    path = FOLDER / name / "config.yaml"
    if not path.exists():
        raise SystemExit(
            f"Unknown experiment {name!r}. There are: {', '.join(experiment_names())}."
        )
    with _naming(path):
        experiment = Experiment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        for name_of_row, row in experiment.rows.items():
            experiment.row_settings(name_of_row)
            compared = row.compare.values() if isinstance(row.compare, dict) else [row.compare]
            for other in compared:
                if other is not None and other not in experiment.rows:
                    raise ValueError(
                        f"{name_of_row} is compared with {other!r}, which is not one of the rows: "
                        f"{', '.join(experiment.rows)}."
                    )
    if experiment.baseline not in experiment.rows:
        raise SystemExit(f"{path}: baseline {experiment.baseline!r} is not one of the rows.")
    tuned = {
        row: entry["learning_rate"]
        for row, entry in read_tuning(name).items()
        if row in experiment.rows
        and "learning_rate" in entry
        and entry["settings"] == experiment.for_tuning().digest(row)
    }
    return experiment.model_copy(update={"tuned": tuned})


def read_tuning(name: str) -> dict[str, Any]:
    """The results of `tune`: for each row the quality by learning rate, and the choice."""
    path = FOLDER / name / "tuning.json"
    if not path.exists():
        return {}
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored
