"""Command-line options that several commands share, and the settings that are built from them."""

import shlex
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from ...config import ConditionalAdapterConfig
from ...errors import ConfigError
from ..tasks.data import DataSpec

_Settings = TypeVar("_Settings")

adapter_option = partial(typer.Option, rich_help_panel="Adapter")
training_option = partial(typer.Option, rich_help_panel="Training")
data_option = partial(typer.Option, rich_help_panel="Data")

DATA_HELP = (
    "CSV, TSV, JSONL, Parquet or text file; folder of a saved `datasets` set or of images by "
    "class; hub name; or packaged:bbc, packaged:bbc-headlines, "
    "packaged:20newsgroups, packaged:fashion-mnist, packaged:prompts."
)

Adapter = Annotated[
    str,
    typer.Option(
        help="Trained adapter (coda train): folder, or hub id, USER/NAME or USER/NAME@REVISION."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples per forward pass.")]
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Model = Annotated[
    str,
    typer.Option(
        help="Local folder, hub id, or packaged:minilm, packaged:dinov2, packaged:whisper."
    ),
]
Output = Annotated[
    Path, typer.Option(help="Folder for adapter/, checkpoints and the TensorBoard log.")
]
Seed = Annotated[int, typer.Option(help="Seed of new parameters, dropout and order.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Truncate texts to this many tokens; by default the model's limit, at most 512."
    ),
]
Factor = Annotated[
    float | None,
    typer.Option("--reduction-factor", "-r", help="Run at this r; by default as trained."),
]
FactorList = Annotated[
    list[str] | None,
    typer.Option("--reduction-factor", "-r", help="Several values: -r 2 -r 4, or -r 2,4."),
]
TextColumn = Annotated[str, typer.Option(help="Column of the texts.")]
ImageColumn = Annotated[str, typer.Option(help="Column of the images.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the classes.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Name of another column of the task, such as audio=path. Repeatable.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split to read, for a data set with several.")]
OnBadRow = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        help="Empty or malformed row: stop and name its file and line, or skip and count it."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")]
WriteResult = Annotated[
    bool,
    typer.Option("--write/--no-write", help="Save the result in the adapter's model card."),
]
Prepacked = Annotated[
    bool,
    typer.Option(
        "--prepacked", "--packed", help="Prepack the weights: faster on CPUs, more memory."
    ),
]

Factors = Annotated[
    str,
    adapter_option(
        "--reduction-factor",
        "-r",
        help="r: heavy layers process n/r tokens. 1 is a dense adapter; 2,4,8 an elastic one.",
    ),
]
AdapterDim = Annotated[int, adapter_option(help="Width of the bottleneck.")]
AttentionMode = Annotated[
    str, adapter_option(metavar="[k_to_k|k_to_all]", help="Keys of the selected tokens.")
]
Epsilon = Annotated[float, adapter_option(help="Temperature of the soft top-k.")]
SoftTopK = Annotated[
    str, adapter_option(metavar="[exact|iterative]", help="Method of the soft top-k.")
]
Gate = Annotated[
    str, adapter_option(metavar="[weighted|straight_through]", help="Weights of the updates.")
]
Router = Annotated[
    str,
    adapter_option(
        "--router", metavar="[learned|random|first|strided]", help="Selection of the tokens."
    ),
]
TrainNorms = Annotated[bool, adapter_option(help="Train layer norms.")]

StepSize = Annotated[int, training_option(help="Examples per step.")]
LearningRate = Annotated[
    float, training_option(help="Peak learning rate of adapters, norms and head.")
]
RouterLearningRate = Annotated[float, training_option(help="Peak learning rate of routers.")]
Schedule = Annotated[str, training_option(help="Learning rate schedule.")]
GradientCheckpointing = Annotated[bool, training_option(help="Save memory, spend time.")]
Bf16 = Annotated[bool, training_option(help="Mixed precision.")]
Resume = Annotated[bool, training_option("--resume", help="Continue from the last checkpoint.")]


def build(settings: type[_Settings], context: typer.Context, **values: object) -> _Settings:
    """Build a dataclass from the options that are called like its fields, and from more values."""
    return settings(**(_options_of(settings, context) | values))


def data_spec(context: typer.Context, **values: object) -> DataSpec:
    """Build the data specification of a command from its options, and from more values."""
    given = {
        "source": context.params["data"],
        "columns": parse_columns(context.params.get("column")),
    }
    return build(DataSpec, context, **(given | values))


def adapter_fields(context: typer.Context, *, only_given: bool = False) -> dict[str, Any]:
    """Fields of a ConditionalAdapterConfig from the options, or only from those given."""
    values = _options_of(ConditionalAdapterConfig, context)
    if only_given:
        values = {name: value for name, value in values.items() if _is_given(context, name)}
    if "reduction_factor" in values:
        values["reduction_factor"] = parse_factors(values["reduction_factor"])
    return values


def _options_of(settings: type, context: typer.Context) -> dict[str, Any]:
    names = (field.name for field in fields(settings))
    return {name: context.params[name] for name in names if name in context.params}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def folder_to_write(adapter: str) -> Path:
    """Folder of an adapter that `--write` may change; hub ids and packaged adapters are refused."""
    if not Path(adapter).is_dir():
        raise ConfigError(
            f"--write changes files, and {adapter!r} is not a folder. Download the adapter with "
            "`hf download USER/NAME --local-dir FOLDER`, and give the folder."
        )
    return Path(adapter)


def command_line(context: typer.Context) -> str:
    """Shell command of this call, with long option names and without options of the output."""
    words = ["coda", context.info_name or ""]
    for option in context.command.params:
        name = option.name or ""
        if name in ("as_json", "write") or not _is_given(context, name):
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += chain.from_iterable((option.opts[0], str(each)) for each in values)
    return shlex.join(words)


def parse_columns(pairs: list[str] | None) -> dict[str, str]:
    """Parse ["audio=path", ...]."""
    names: dict[str, str] = {}
    for pair in pairs or ():
        role, separator, name = pair.partition("=")
        if not (role and separator and name) or role in names:
            problem = "names that column again" if role in names else f"got {pair!r}"
            raise ConfigError(f"--column must be ROLE=NAME such as audio=path, {problem}.")
        names[role] = name
    return names


def parse_factors(text: str) -> float | tuple[float, ...]:
    """Parse "4", or "2,4,8" for an elastic adapter."""
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"The reduction factor must be a number such as 4, or several such as 2,4,8, "
            f"got {text!r}."
        ) from error
    return factors if len(factors) > 1 else factors[0]


def parse_factor_list(texts: Sequence[str] | None) -> tuple[float, ...]:
    """Parse all values of a repeatable option, such as ["2", "4,8"]."""
    parsed = [parse_factors(text) for text in texts or ()]
    return tuple(chain.from_iterable(f if isinstance(f, tuple) else (f,) for f in parsed))
