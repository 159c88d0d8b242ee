"""Each model type has one record, and a record is short."""

import re
from pathlib import Path

import pytest

import conditional_adapters as ca
from conditional_adapters.architectures import _registry


def test_a_model_type_has_one_record(monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_SPECS", dict(_registry._SPECS))
    spec = ca.ArchitectureSpec(model_types=("bert",), layers="encoder.layer")
    with pytest.raises(ca.ConfigError, match="'bert' is registered already"):
        ca.register_architecture(spec)


RECORDS = sorted(
    path
    for path in Path(_registry.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "_registry", "_spec")
)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_short_and_the_mechanism_knows_no_names(path: Path) -> None:
    code = path.read_text()
    assert len(code.splitlines()) < 60
    assert not re.search(r"model_type\s*(==|in\b)", code)
