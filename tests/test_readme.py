"""The snippets of README and docs run as they stand, with a local model in place of a hub name."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.architectures import _registry
from conditional_adapters.cli.main import app
from tests.tiny_models import TINY_MODELS

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands


def snippets(path: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained("base")
    scope = {"batch": TINY_MODELS["bert"].inputs()}
    for code in snippets("README.md", "python"):
        exec(code.replace("bert-base-uncased", "base"), scope)
    assert scope["routing"].layers[0].selected_indices.shape == (2, 2)  # ceil(11 / 8)
    assert not [n for n, _ in scope["model"].named_parameters() if "coda_" in n]  # detached


def test_the_commands_of_the_readme_exist_with_their_options() -> None:
    lines = [
        line.split("#")[0]
        for block in snippets("README.md", "bash")
        for line in block.splitlines()
        if line.startswith("coda ")
    ]
    assert len(lines) >= 4
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
        assert {a for a in arguments if a.startswith("-")} <= known, line


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


class _Config(PretrainedConfig):
    model_type = "my-encoder"
    hidden_size = 16


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(16)
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        return hidden_states + self.linear(self.norm1(hidden_states)).relu()


class _Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([_Layer(), _Layer()])

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states


class _Model(PreTrainedModel):
    config_class = _Config

    def __init__(self, config) -> None:
        super().__init__(config)
        self.encoder = _Encoder()
        self.post_init()

    def forward(self, inputs_embeds, attention_mask=None):
        return self.encoder(inputs_embeds, attention_mask)


def test_a_custom_encoder_becomes_conditional_with_the_record_of_the_docs(monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_SPECS", dict(_registry._SPECS))
    for code in snippets("docs/add-an-architecture.md", "python"):
        exec(code, {})
    model, states = _Model(_Config()).eval(), torch.randn(2, 8, 16)
    dense = model(states)
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=4, adapter_dim=3))
    with ca.record_routing(model) as routing:
        conditional = model(states)
    assert [d.selected_indices.shape for d in routing.layers] == [(2, 2), (2, 2)]
    chosen = torch.zeros(2, 8, dtype=torch.bool)
    for decision in routing.layers:
        chosen.scatter_(1, decision.selected_indices, True)
    assert torch.equal(conditional[~chosen], states[~chosen])  # a fresh adapter adds nothing
    torch.testing.assert_close(ca.detach(model)(states), dense)


def test_a_model_type_has_one_record(monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_SPECS", dict(_registry._SPECS))
    spec = ca.ArchitectureSpec(model_types=("bert",), layers="encoder.layer")
    with pytest.raises(ca.ConfigError, match="'bert' is registered already"):
        ca.register_architecture(spec)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model_types": "bert"}, "non-empty tuple of names, got 'bert'"),
        ({"model_types": ("x",), "num_prefix_tokens": -1}, "at least 0, got -1"),
        ({"model_types": ("x",), "carried_outputs": {0: "y"}}, "position 0 holds the hidden"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(settings, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        ca.ArchitectureSpec(layers="layers", **settings)
