"""docs/support-matrix.md names every model type that is supported or refused."""

import re

import conditional_adapters as ca
from conditional_adapters.architectures import refused_architectures
from tests.helpers import ROOT
from tests.helpers.tiny_models import TINY_MODELS


def test_the_support_matrix_is_up_to_date() -> None:
    page = (ROOT / "docs/support-matrix.md").read_text()
    assert "failed" not in page, "run make support-matrix when the tests pass"
    named = set(re.findall(r"^(?:\||-) `([^`]+)`", page, flags=re.MULTILINE))
    assert named == {*ca.supported_architectures(), *refused_architectures()}
    tested = {line.split("|")[2].strip() for line in page.splitlines() if line.count("|") > 4}
    assert tested - {"tested as", "---"} == set(TINY_MODELS)
