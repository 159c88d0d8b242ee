"""The snippets of docs/peft.md run as they stand, with a local model in place of a hub name."""

import re
from pathlib import Path

import torch

from tests.tiny_models import TINY_MODELS

PAGE = Path(__file__).parents[2] / "docs" / "peft.md"


def test_the_python_of_the_page_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = TINY_MODELS["bert"]
    dense = tiny.build("sdpa")
    dense.save_pretrained("base")
    scope = {"batch": tiny.inputs()}
    codes = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(codes) == 4
    for code in codes:
        exec(code.replace("bert-base-uncased", "base"), scope)
    assert list(scope["dense"].peft_config) == ["theirs"]
    restored = scope["dense"].state_dict()
    assert all(torch.equal(restored[name], value) for name, value in dense.state_dict().items())
