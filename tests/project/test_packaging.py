"""The distributions that `python -m build` makes are complete and work without the repository."""

import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import conditional_adapters as ca
from tests.helpers import ROOT

PACKAGE = Path("src/conditional_adapters")


def run(*command: object, cwd: Path) -> str:
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(folder: Path) -> set[str]:
    """Return the files of a folder that git knows or would add."""
    files = run("git", "ls-files", "-co", "--exclude-standard", folder, cwd=ROOT).splitlines()
    return {name for name in files if (ROOT / name).exists()}


def test_every_dependency_allows_the_versions_of_python_that_we_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [
        line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line
    ]
    assert f">={versions[0]}" == project["requires-python"]
    groups = [group for name, group in project["optional-dependencies"].items() if name != "dev"]
    waiting = [line for group in (project["dependencies"], *groups) for line in group]
    seen: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in seen or not wanted:
            continue
        seen.add(name)
        metadata = importlib.metadata.distribution(name)
        waiting += metadata.requires or []
        allowed = SpecifierSet(metadata.metadata["Requires-Python"] or "")
        assert all(f"{version}.9" in allowed for version in versions), (name, allowed)
    assert {"torch", "transformers", "gradio", "pandas"} < seen


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # Not isolated, which would download hatchling.
    run(sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return folder


def test_the_wheel_has_the_package_and_nothing_else(built) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"conditional_adapters-{ca.__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {str(Path(name).relative_to("src")) for name in tracked(PACKAGE)}
    assert "conditional_adapters/py.typed" in names
    assert wheel.stat().st_size < 10e6


def test_the_source_distribution_is_the_repository(built) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert names == tracked(Path()) | {"PKG-INFO"}


def test_the_wheel_runs_without_the_repository(built, tmp_path) -> None:
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    run(*pip, "--target", site, wheel, cwd=tmp_path)
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import conditional_adapters as ca, torch\n"
        "from conditional_adapters.toolkit.assets import find_adapter\n"
        "from transformers import BertConfig, BertModel\n"
        "model = BertModel(BertConfig(num_hidden_layers=1))\n"
        "ca.save_adapter(ca.attach(model), 'adapter')\n"
        "ca.load_adapter(ca.detach(model), 'adapter')\n"
        "assert find_adapter('packaged:minilm-elastic').is_dir()\n"
        "print(ca.__file__)\n"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip().startswith(str(site))
