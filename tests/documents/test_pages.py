"""The snippets of the documentation run as they stand, with local models in place of hub names."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, Dinov2Config, Dinov2Model

import conditional_adapters as ca
from tests.helpers import ROOT
from tests.helpers.documents import COMMANDS, HUB_NAMES, snippets
from tests.helpers.tiny_bert import WORDS, word_tokenizer, write_bert
from tests.helpers.tiny_whisper import write_whisper

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
# Pages whose code needs something of its own, and the tests that run it.
ELSEWHERE = {
    "docs/add-an-architecture.md": "contracts/test_architectures.py",
    "docs/choosing-r.md": "documents/test_command_pages.py",
    "docs/hub.md": "documents/test_hub_page.py",
    "docs/many-adapters.md": "documents/test_readme.py",
    "docs/peft.md": "documents/test_peft_page.py",
    "docs/seeing-the-routing.md": "documents/test_command_pages.py",
    "docs/sentence-transformers.md": "integrations/test_sentence_transformers.py",
    "docs/training-code.md": "integrations/test_training_code.py",
}
# Exporting takes longer than all other pages together; test_onnx.py calls the same functions.
NOT_RUN = {"docs/export.md"}
HERE = [
    page for page in PAGES if snippets(page, "python") and page not in ELSEWHERE.keys() | NOT_RUN
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny models, data, and adapters as an earlier page would have left them."""
    root = tmp_path_factory.mktemp("docs")
    write_bert(root / "bert", word_tokenizer())
    write_whisper(root / "whisper")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 1}
    config = Dinov2Config(**sizes, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(root / "dinov2")
    texts = [" ".join(WORDS[i : i + 5 + i % 3]) for i in range(16)]
    lines = [f"{text},{index % 3}" for index, text in enumerate(texts)]
    (root / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (root / "articles.txt").write_text("\n".join(texts) + "\n")
    model = BertForSequenceClassification.from_pretrained(root / "bert", num_labels=3)
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=4))
    for name in ("my-adapter", "other-adapter"):
        ca.save_adapter(model, root / name)
    return root


def context(page: str, folder: Path) -> dict[str, object]:
    """Return what the text of a page says that the reader has."""
    if page != "docs/outputs.md":
        return {}
    model = BertForSequenceClassification.from_pretrained(
        folder / "bert", attn_implementation="eager"
    )
    return {"ca": ca, "model": ca.attach(model), "batch": {"input_ids": torch.full((2, 9), 4)}}


@pytest.mark.parametrize("page", HERE)
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_the_python_of_a_page_runs(page, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    scope = context(page, folder)
    for code in snippets(page, "python"):
        for name, local in HUB_NAMES.items():
            code = code.replace(name, local)
        exec(compile(code, page, "exec"), scope)
    if page == "docs/quickstart.md":  # what it ends with
        assert scope["routing"].layers[0].selected_indices.shape == (2, 3)
        assert not any("coda_" in name for name in scope["model"].state_dict())


def test_the_pages_that_are_run_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text()
        assert snippets(page, "python")


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p, "bash")])
def test_the_commands_of_a_page_exist_with_their_options(page) -> None:
    text = "\n".join(snippets(page, "bash"))
    for line in re.findall("^coda .*", text, flags=re.MULTILINE):
        _, verb, *arguments = shlex.split(line, comments=True)
        parameters = COMMANDS[verb].params
        known = {name for parameter in parameters for name in parameter.opts}
        known |= {name for parameter in parameters for name in parameter.secondary_opts}
        assert {a for a in arguments if a.startswith("-")} <= known, line
        required = {parameter.opts[0] for parameter in parameters if parameter.required}
        assert required <= set(arguments), line
