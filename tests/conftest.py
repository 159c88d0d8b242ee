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
from xdist.scheduler import LoadScopeScheduling

from conditional_adapters.toolkit.assets import ASSETS

pytest.register_assert_rewrite("tests.helpers")  # before any test imports from there

# Files whose tests share something slow to make: a trained or exported model, a server, a site.
SHARING = {
    "documents/test_pages.py",
    "documents/test_site.py",
    "integrations/test_onnx.py",
    "project/test_packaging.py",
    "toolkit/assets/test_dinov2.py",
    "toolkit/assets/test_whisper.py",
    "toolkit/cli/test_cli.py",
    "toolkit/cli/test_export.py",
    "toolkit/cli/test_pretrain.py",
    "toolkit/cli/test_show.py",
    "toolkit/demo/test_demo_in_a_browser.py",
    "toolkit/tasks/kinds/test_speech_recognition.py",
    "toolkit/visualisation/test_routing_page_in_a_browser.py",
}


class KeepTogether(LoadScopeScheduling):
    """Runs all tests of a sharing file in one process, and all cases of any other test.

    pytest-xdist 3.8 has `--dist loadgroup` for it, which finds no group under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        file = path.partition("tests/")[2]
        return file if file in SHARING else f"{file}::{test.partition('[')[0]}"


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Divide the tests among processes."""
    return KeepTogether(config, log)


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
