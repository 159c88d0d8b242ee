"""Provenance of GPU results: the device, and descriptions of errors."""

import os
import sys
import traceback

import torch

from benchmarks._report import ROOT, Report


def describe_device(device: str) -> Report:
    """Name, memory and software versions of the GPU."""
    about: Report = {"device": device}
    if device != "cuda":
        return about
    import triton

    properties = torch.cuda.get_device_properties(0)
    return about | {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gigabytes": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "allocator": torch.cuda.get_allocator_backend(),
        "allocator_settings": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }


def describe_error(error: Exception) -> str:
    """Type, message and place of an error, shortened."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}"
    return f"{text[:600]} ({short_path(where.filename)}:{where.lineno})"


def short_path(path: str) -> str:
    """Path of a file relative to its package or to this repository."""
    folders = [f"{folder}{os.sep}" for folder in (ROOT, *sys.path)]
    return path.removeprefix(max((f for f in folders if path.startswith(f)), key=len, default=""))
