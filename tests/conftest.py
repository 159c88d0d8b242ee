"""Shared fixtures: one seed for every test, quiet upstream loggers, optional packages."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers reads it

import torch

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from transformers.utils import logging as transformers_logging

from conditional_adapters.assets import ASSETS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """Skip, unless the package of an asset is installed (asked of pip and dpkg, not of us)."""

    def require(key: str) -> None:
        asset = ASSETS[key]
        if asset.installer == "apt":
            installed = Path(f"/usr/share/doc/{asset.package}").is_dir()
        else:
            names = {d.name.lower() for d in importlib.metadata.distributions()}
            installed = asset.package in names
        if not installed:
            pytest.skip(f"{asset.package} is not installed: {asset.install_command}")

    return require
