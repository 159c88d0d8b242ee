"""The documentation site builds without a warning, and what its pages claim is still so."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import benchmark_page, draw_layer
from tests.helpers import ROOT
from tests.helpers.public_names import PUBLIC

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site; any broken link, missing page or missing name is an error."""
    target = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return target


def test_every_page_is_built(site) -> None:
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert built - {Path("404")} == {
        p.relative_to(DOCS).with_suffix("") for p in DOCS.rglob("*.md")
    }


def test_nothing_is_fetched_from_elsewhere(site) -> None:
    fetching = re.compile(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
    for page in site.rglob("*.html"):
        assert not fetching.findall(page.read_text()), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style.name


def test_formulas_are_drawn(site) -> None:
    page = (site / "how-it-works.html").read_text()
    source = (DOCS / "how-it-works.md").read_text()
    num_blocks = len(re.findall(r"^\$\$$", source, flags=re.MULTILINE)) // 2
    assert num_blocks > 5
    assert (
        page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">')
        == num_blocks
    )
    assert "arithmatex" not in page
    assert not re.search(r"\\[a-z]+\{", page)  # a command that was not understood stays as it is


def test_the_reference_has_every_public_name(site) -> None:
    page = (site / "reference.html").read_text()
    described = {
        anchor.rpartition(".")[2] for anchor in re.findall(r'id="(conditional_\S+)"', page)
    }
    assert set(PUBLIC) <= described


def test_the_benchmark_page_is_up_to_date() -> None:
    page = (DOCS / "benchmarks.md").read_text()
    assert page == benchmark_page.render(benchmark_page.read_results())


def test_the_picture_is_up_to_date() -> None:
    assert (DOCS / "images/conditional-layer.svg").read_text() == draw_layer.draw()


def test_the_tests_that_hold_our_answers_exist() -> None:
    page = (DOCS / "what-users-ask.md").read_text()
    rows = re.findall(r"^\| .*\[\S+#\d+\].*\| (.+) \|$", page, flags=re.MULTILINE)
    assert len(rows) == 18
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)
        assert named == [tuple(cell.strip("`").split("::")) for cell in row.split("<br>")]
        for path, name in named:
            tree = ast.parse((ROOT / "tests" / path).read_text())
            assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, name
