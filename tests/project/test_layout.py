"""Tests mirror the package and share code through `tests/helpers` alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import conditional_adapters as ca
from tests.helpers import ROOT

TESTS = ROOT / "tests"
# Folders that test more than one folder of the package.
OTHERS = {"benchmarks", "contracts", "documents", "experiments", "helpers", "project"}


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports; of relative imports without the leading dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_no_test_module_is_imported() -> None:
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    for path in [*TESTS.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        for name in imported(path):
            assert modules.isdisjoint(name.split(".")), f"{path.relative_to(ROOT)}: {name}"


def test_every_folder_of_tests_is_one_of_the_package() -> None:
    package = Path(ca.__file__).parent
    for path in TESTS.rglob("test_*.py"):
        folder = path.relative_to(TESTS).parent
        assert folder.parts[:1] == () or folder.parts[0] in OTHERS or (package / folder).is_dir()


def test_files_whose_tests_stay_in_one_process_exist() -> None:
    named = re.findall(r'^    "(.+\.py)",$', (TESTS / "conftest.py").read_text(), flags=re.M)
    assert len(named) > 10
    assert all((TESTS / name).is_file() for name in named)
