"""Stand-ins for packages."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conditional_adapters.toolkit.assets import ASSETS


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
