"""Measurements of an adapter, in a file beside it; its model card shows them.

The file carries a digest of the adapter's values, so measurements of an adapter that was trained
further or replaced are ignored.
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
        command: The command line that measured it.
        data: The data set.
        part: The measured part of it, such as a split; None means all.
        rows: Number of examples.
        reduction_factor: r.
        metrics: Metrics by name, mostly in [0, 1].
        speed_up: Latency of the encoder at `reference_factor` divided by its latency at r; None if
            latency was not measured.
        reference_factor: The reference r of the speed-up.
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
    """Read the measurements of an adapter in its present state.

    Args:
        directory: The folder of a saved adapter.

    Returns:
        The measurements, oldest first. Empty if the adapter has changed since, and, with a
        warning, if the file is damaged.
    """
    path = Path(directory) / MEASUREMENTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content[_DIGEST_KEY] != _values_digest(path.with_name(TENSORS_FILE)):
            return ()
        return tuple(map(_measurement, content["measurements"]))
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, KeyError) as error:
        warnings.warn(f"{path} is damaged and ignored ({error!r}). Delete it.", stacklevel=2)
        return ()


def add_measurements(
    directory: str | os.PathLike[str], measurements: Iterable[Measurement]
) -> None:
    """Write measurements beside an adapter; they replace those of the same command at the same r.

    Args:
        directory: The folder of a saved adapter.
        measurements: Of the adapter in its present state.
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
    return Measurement(**{**values, "timed_batch": shape and tuple(shape)})


def _values_digest(path: Path) -> str:
    """Digest of a safetensors file without its header, which holds the configuration."""
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        file.seek(8 + header_length)
        return hashlib.sha256(file.read()).hexdigest()
