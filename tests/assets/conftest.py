"""Real packages are optional: a test that needs one asks for it here and is skipped without it."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conditional_adapters.assets import ASSETS


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """Skip, unless the package of an asset is installed (asked of pip and dpkg, not of us)."""

    def require(key: str) -> None:
        asset = ASSETS[key]
        if asset.installer == "apt":
            installed = Path(f"/usr/share/doc/{asset.package}").is_dir()
        else:
            names = {d.name for d in importlib.metadata.distributions()}
            installed = asset.package in names
        if not installed:
            pytest.skip(f"{asset.package} is not installed: {asset.install_command}")

    return require


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Path]:
    """Install content of our own in the place of an asset's file, for this test."""

    def install(key: str, content: bytes) -> Path:
        asset = ASSETS[key]
        path = tmp_path / asset.folder / asset.file
        path.parent.mkdir(parents=True)
        # Importing this package would end the test.
        (tmp_path / asset.folder / "__init__.py").write_text("raise SystemExit")
        path.write_bytes(content)
        monkeypatch.syspath_prepend(os.fspath(tmp_path))
        return path

    return install
