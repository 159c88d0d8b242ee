"""What was measured of an adapter, in a file beside it, so that its model card can say so.

The file carries a digest of the adapter's values. Once the adapter is trained further or replaced,
what was measured before no longer counts.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..checkpoint.atomic import replace_text
from ..checkpoint.files import MEASUREMENTS_FILE, TENSORS_FILE

_DIGEST_KEY = "values_sha256"


def _environment() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"conditional-adapters {__version__}, torch {torch.__version__}, {device}, "
        f"threads: {torch.get_num_threads()}"
    )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One adapter at one reduction factor on one data set.

    Attributes:
        command: What measured it, as one would type it.
        data: The data set.
        part: Which part of it, such as a split; None means all.
        rows: Number of rows.
        reduction_factor: r.
        metrics: Quality by name, mostly shares in [0, 1].
        speed_up: How many times faster the encoder is than at `reference_factor`; None if no time
            was measured.
        reference_factor: The r that it is compared with.
        timed_batch: Shape of the timed input.
        environment: Versions and hardware.
    """

    command: str
    data: str
    part: str | None = None
    rows: int
    reduction_factor: float
    metrics: dict[str, float]
    speed_up: float | None = None
    reference_factor: float | None = None
    timed_batch: tuple[int, ...] | None = None
    environment: str = field(default_factory=_environment)


def read_measurements(directory: str | os.PathLike[str]) -> tuple[Measurement, ...]:
    """Return what was measured of the adapter as it is now.

    Args:
        directory: What `save_adapter` wrote.

    Returns:
        The measurements, in the order they were made; none if the adapter has changed since, or
        with a warning, if the file is damaged.
    """
    path = Path(directory) / MEASUREMENTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content[_DIGEST_KEY] != _values_digest(path.with_name(TENSORS_FILE)):
            return ()
        return tuple(_measurement(values) for values in content["measurements"])
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, KeyError) as error:
        warnings.warn(f"{path} is damaged and ignored ({error!r}). Delete it.", stacklevel=2)
        return ()


def add_measurements(
    directory: str | os.PathLike[str], measurements: Iterable[Measurement]
) -> None:
    """Write measurements beside an adapter; the same command at the same r replaces what it gave.

    Args:
        directory: What `save_adapter` wrote.
        measurements: Of the adapter as it is now.
    """
    path = Path(directory) / MEASUREMENTS_FILE
    present = {(m.command, m.reduction_factor): m for m in read_measurements(directory)}
    present |= {(m.command, m.reduction_factor): m for m in measurements}
    content = {
        _DIGEST_KEY: _values_digest(path.with_name(TENSORS_FILE)),
        "measurements": [asdict(measurement) for measurement in present.values()],
    }
    replace_text(path, json.dumps(content, indent=2) + "\n")


def _measurement(values: dict[str, Any]) -> Measurement:
    shape = values["timed_batch"]
    return Measurement(**{**values, "timed_batch": None if shape is None else tuple(shape)})


def _values_digest(path: Path) -> str:
    """Hash the values in a safetensors file, without its header, which holds the configuration."""
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        file.seek(8 + header_length)
        return hashlib.sha256(file.read()).hexdigest()
