"""Command-line options that several verbs share, so that they mean and read the same everywhere."""

import shlex
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ...errors import ConfigError

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
BatchSize = Annotated[int, typer.Option(min=1, help="Rows per forward pass.")]
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Model = Annotated[
    str, typer.Option(help="Local folder, hub id, or packaged:minilm, packaged:dinov2.")
]
Seed = Annotated[int, typer.Option(help="Seed of new parameters, dropout and order.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Cut texts at so many tokens; by default the model's limit, at most 512."),
]
Factor = Annotated[
    float | None,
    typer.Option("--reduction-factor", "-r", help="Run at this r; by default as trained."),
]
FactorList = Annotated[
    list[str] | None,
    typer.Option("--reduction-factor", "-r", help="Several: -r 2 -r 4, or -r 2,4."),
]
TextColumn = Annotated[str, typer.Option(help="Column that holds the texts.")]
ImageColumn = Annotated[str, typer.Option(help="Column that holds the images.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the classes.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="What the data calls another column of the task, such as audio=path. May be given "
        "several times.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Part to read of a data set that has several.")]
OnBadRow = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        help="What to do with an empty or malformed row: stop and name its file and line, or skip "
        "it and count."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only so many rows.")]

_ADAPTER, _TRAINING = "Adapter", "Training"
Factors = Annotated[
    str,
    typer.Option(
        "--reduction-factor",
        "-r",
        help="r: heavy layers process n/r tokens. 1 is a dense adapter; 2,4,8 an elastic one.",
        rich_help_panel=_ADAPTER,
    ),
]
AdapterDim = Annotated[int, typer.Option(help="Width of the bottleneck.", rich_help_panel=_ADAPTER)]
AttentionMode = Annotated[
    str,
    typer.Option(
        metavar="[k_to_k|k_to_all]",
        help="What chosen tokens attend to.",
        rich_help_panel=_ADAPTER,
    ),
]
Epsilon = Annotated[
    float, typer.Option(help="Temperature of the soft top-k.", rich_help_panel=_ADAPTER)
]
SoftTopK = Annotated[
    str, typer.Option(metavar="[exact|iterative]", help="Method.", rich_help_panel=_ADAPTER)
]
Gate = Annotated[
    str,
    typer.Option(
        metavar="[weighted|straight_through]", help="Update weights.", rich_help_panel=_ADAPTER
    ),
]
Router = Annotated[
    str,
    typer.Option(
        metavar="[learned|random|first|strided]",
        help="How tokens are chosen.",
        rich_help_panel=_ADAPTER,
    ),
]
TrainNorms = Annotated[bool, typer.Option(help="Train layer norms.", rich_help_panel=_ADAPTER)]
StepSize = Annotated[int, typer.Option(help="Rows per step.", rich_help_panel=_TRAINING)]
LearningRate = Annotated[
    float, typer.Option(help="Peak, of adapters, norms and head.", rich_help_panel=_TRAINING)
]
RouterLearningRate = Annotated[
    float, typer.Option(help="Peak, of routers.", rich_help_panel=_TRAINING)
]
Schedule = Annotated[str, typer.Option(help="Learning rate schedule.", rich_help_panel=_TRAINING)]
GradientCheckpointing = Annotated[
    bool, typer.Option(help="Save memory, spend time.", rich_help_panel=_TRAINING)
]
Bf16 = Annotated[bool, typer.Option(help="Mixed precision.", rich_help_panel=_TRAINING)]
WriteResult = Annotated[
    bool,
    typer.Option(
        "--write/--no-write", help="Keep the result with the adapter, for its model card."
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the last checkpoint.", rich_help_panel=_TRAINING),
]

# Fields of a ConditionalAdapterConfig that are options, by the names of their parameters.
_FIELDS = {
    "reduction_factor": "reduction_factor",
    "adapter_dim": "adapter_dim",
    "attention_mode": "attention_mode",
    "epsilon": "epsilon",
    "soft_topk": "soft_topk",
    "gate": "gate",
    "router": "router_kind",
    "train_norms": "train_norms",
}


def adapter_fields(context: typer.Context, *, only_given: bool = False) -> dict[str, Any]:
    """Read the fields of a ConditionalAdapterConfig from the options of a verb.

    Args:
        context: The call of a verb that has all options of an adapter.
        only_given: Leave out those that the user did not type.

    Returns:
        Values by the names of the fields.

    Raises:
        ConfigError: If the reduction factor is no number.
    """
    fields = {}
    for option, field in _FIELDS.items():
        source = context.get_parameter_source(option)
        if not only_given or (source is not None and source.name == "COMMANDLINE"):
            fields[field] = context.params[option]
    if "reduction_factor" in fields:
        fields["reduction_factor"] = parse_factors(fields["reduction_factor"])
    return fields


def folder_to_write(adapter: str) -> Path:
    """Return the folder of an adapter that may be changed.

    Args:
        adapter: What the user typed.

    Returns:
        The folder.

    Raises:
        ConfigError: If it is not a folder of the user's.
    """
    if not Path(adapter).is_dir():
        raise ConfigError(
            f"--write changes files, and {adapter!r} is no folder. Fetch the adapter with "
            "`hf download USER/NAME --local-dir FOLDER`, and give the folder."
        )
    return Path(adapter)


def command_line(context: typer.Context) -> str:
    """Return the command that the user typed, as one would type it in a shell.

    Args:
        context: The call of a verb.

    Returns:
        The verb and its options, with their long names, but not those of the output.
    """
    words = ["coda", context.info_name or ""]
    for option in context.command.params:
        name, value = option.name or "", context.params.get(option.name or "")
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in ("as_json", "write"):
            continue
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += chain.from_iterable((option.opts[0], str(each)) for each in values)
    return shlex.join(words)


def parse_columns(pairs: list[str] | None) -> dict[str, str]:
    """Read ["audio=path", ...].

    Args:
        pairs: What the user typed.

    Returns:
        What the data calls each column.

    Raises:
        ConfigError: If there is no "=", or a column is named twice.
    """
    names: dict[str, str] = {}
    for pair in pairs or ():
        role, separator, name = pair.partition("=")
        if not (role and separator and name) or role in names:
            problem = "names that column again" if role in names else f"got {pair!r}"
            raise ConfigError(f"--column must be ROLE=NAME such as audio=path, {problem}.")
        names[role] = name
    return names


def parse_factors(text: str) -> float | tuple[float, ...]:
    """Read "4", or "2,4,8" for an elastic adapter.

    Args:
        text: What the user typed.

    Returns:
        One factor, or several.

    Raises:
        ConfigError: If a part is no number.
    """
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"reduction factor must be a number such as 4, or several such as 2,4,8, got {text!r}."
        ) from error
    return factors if len(factors) > 1 else factors[0]


def parse_factor_list(texts: Sequence[str] | None) -> tuple[float, ...]:
    """Read all values of an option that may be given several times.

    Args:
        texts: What the user typed each time, such as "2" or "2,4"; None if never.

    Returns:
        The factors in their order; none if the option was not given.

    Raises:
        ConfigError: If a part is no number.
    """
    parsed = [parse_factors(text) for text in texts or ()]
    return tuple(chain.from_iterable(f if isinstance(f, tuple) else (f,) for f in parsed))
