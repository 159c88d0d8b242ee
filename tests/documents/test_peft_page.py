"""The snippets of docs/peft.md run as they stand, with a local model in place of a hub name."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.helpers.documents import snippets
from tests.helpers.tiny_bert import WORDS, word_tokenizer, write_bert
from tests.helpers.versions import needs_add_adapter


@needs_add_adapter
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_the_python_of_the_page_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bert(tmp_path / "base", word_tokenizer())
    texts = [" ".join(WORDS[index : index + 5]) for index in range(16)]
    lines = [f"{text},{index % 3}" for index, text in enumerate(texts)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    scope: dict = {}
    for code in snippets("docs/peft.md", "python"):
        exec(code.replace("bert-base-uncased", "base"), scope)
    assert [set(answer) for answer in scope["answers"]] == [{"label", "score"}] * 2
    assert (tmp_path / "runs/peft/checkpoint-6/adapter_model.safetensors").exists()
    assert not (tmp_path / "runs/peft/checkpoint-6/model.safetensors").exists()
    assert list(scope["dense"].peft_config) == ["theirs"]
    restored = scope["dense"].state_dict()
    dense = AutoModelForSequenceClassification.from_pretrained("base", num_labels=3)
    encoder = {n: v for n, v in dense.state_dict().items() if not n.startswith("classifier")}
    assert all(torch.equal(restored[name], value) for name, value in encoder.items())
