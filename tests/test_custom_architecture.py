"""A user's own encoder, described by the record of the docs, meets the whole contract."""

import re
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import conditional_adapters as ca
from conditional_adapters.architectures import _registry
from tests.contracts import test_architectures as contract
from tests.tiny_models import HEADS, HIDDEN, LAYERS, TINY_MODELS, TinyModel
from tests.tiny_models._builder import SEQ, builder, text_inputs

DOCS = Path(__file__).parent.parent / "docs/add-an-architecture.md"


class MyConfig(PretrainedConfig):
    model_type = "my-encoder"
    hidden_size = HIDDEN


def eager_attention_forward(module, query, key, value, attention_mask, scaling, **kwargs):
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2), weights


class MyAttention(torch.nn.Module):
    is_causal = False

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, torch.nn.Linear(HIDDEN, HIDDEN))

    def forward(self, states, attention_mask, **kwargs):
        query, key, value = (
            project(states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        scaling = query.shape[-1] ** -0.5
        output, _ = attend(self, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return self.o_proj(output.flatten(2))


class MyLayer(GradientCheckpointingLayer):
    def __init__(self, config) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(HIDDEN), torch.nn.LayerNorm(HIDDEN)
        self.attention = MyAttention(config)
        self.up, self.down = torch.nn.Linear(HIDDEN, 48), torch.nn.Linear(48, HIDDEN)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        update = self.attention(self.norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + update
        return hidden_states + self.down(self.up(self.norm2(hidden_states)).relu())


class MyEncoder(torch.nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.layers = torch.nn.ModuleList([MyLayer(config) for _ in range(LAYERS)])

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        states = [hidden_states]
        for layer in self.layers:
            states.append(layer(states[-1], mask, **kwargs))
        return states


class MyModel(PreTrainedModel):
    config_class = MyConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config) -> None:
        super().__init__(config)
        self.embeddings = torch.nn.Embedding(60, HIDDEN)
        self.positions = torch.nn.Embedding(SEQ, HIDDEN)
        self.encoder = MyEncoder(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        positions = self.positions.weight[: input_ids.shape[1]]
        states = self.encoder(self.embeddings(input_ids) + positions, attention_mask)
        return BaseModelOutput(states[-1], tuple(states) if output_hidden_states else None)


CONTRACT = {
    name: test
    for name, test in vars(contract).items()
    if name.startswith("test_") and "registry" not in name and "inductor" not in name
}
VALUES = {
    "name": ["my-encoder"],
    "attention": ["eager", "sdpa"],
    "padding": ["none", "right", "left"],
    "mode": ["k_to_k", "k_to_all"],
    "side": ["right"],  # positions count from the left end
    "reduction_factor": [1, 1.0001],
    "use_reentrant": [False, True],
    "dtype": [torch.bfloat16, torch.float16],
}


def cases() -> list[object]:
    found = []
    for check, test in CONTRACT.items():
        code = test.__code__
        combinations: list[dict[str, object]] = [{}]
        for name in code.co_varnames[: code.co_argcount]:
            if name in VALUES:
                combinations = [c | {name: v} for c in combinations for v in VALUES[name]]
        marks = [pytest.mark.compile] if "compiling" in check else []
        for values in combinations:
            label = "-".join([check, *map(str, values.values())])
            found.append(pytest.param(check, values, id=label, marks=marks))
    return found


@pytest.fixture
def _registered(monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_SPECS", dict(_registry._SPECS))
    for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL):
        exec(code, {})
    tiny = TinyModel(
        builder(MyModel, MyConfig),
        text_inputs,
        num_prefix_tokens=1,
        paddings=("none", "right", "left"),
    )
    monkeypatch.setitem(TINY_MODELS, "my-encoder", tiny)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("check, values", cases())
def test_the_record_of_the_docs_meets_the_contract(check, values, tmp_path) -> None:
    test = CONTRACT[check]
    wants_path = "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount]
    test(**values, **({"tmp_path": tmp_path} if wants_path else {}))


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


def test_the_support_matrix_is_up_to_date() -> None:
    page = (DOCS.parent / "support-matrix.md").read_text()
    assert "failed" not in page, "run make support-matrix when the tests pass"
    named = set(re.findall(r"^(?:\||-) `([^`]+)`", page, flags=re.MULTILINE))
    assert named == {*ca.supported_architectures(), *_registry.refused_architectures()}
    tested = {line.split("|")[2].strip() for line in page.splitlines() if line.count("|") > 4}
    assert tested - {"tested as", "---"} == set(TINY_MODELS)
