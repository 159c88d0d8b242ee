"""Exported models against PyTorch: torch.export programs, and ONNX files in ONNX Runtime.

Exporting is slow, so each model is exported once and then asked everything.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import conditional_adapters as ca
from conditional_adapters.integrations.export import export_program, make_sample_inputs
from conditional_adapters.integrations.onnx import (
    export_onnx,
    open_session,
    quantize_onnx,
    read_metadata,
    run_onnx,
)
from conditional_adapters.model.attachment import adapter_parameters, conditional_layers
from conditional_adapters.ops import prefix_mask, select_tokens, token_budget
from conditional_adapters.toolkit.assets import load_packaged_model
from tests.helpers.tiny_models import TINY_MODELS

# Exporting traces the model, which checks of shapes would take part in.
pytestmark = pytest.mark.compile

REDUCTION = 3
TOLERANCE = {"atol": 3e-6, "rtol": 1e-5}  # for numbers of about 1, or 0.1 for logits of tiny models
TEXTS = ["bert-k_to_k", "bert-k_to_all", "roberta-k_to_k", "modernbert-k_to_k", "t5-k_to_k"]
FIXED = ["vit-k_to_k", "dinov2-k_to_k", "whisper-k_to_k"]
# Valid tokens of each row, the padded length, and the side of the padding.
BATCHES = [
    ((1,), 1, "right"),
    ((7,), 7, "right"),
    ((4, 13, 9), 13, "right"),
    ((12, 3, 1, 20, 17), 24, "left"),
    ((30, 31), 31, "right"),
]


@dataclass(frozen=True)
class Exported:
    """A model, the part of it that was exported, and the file."""

    model: nn.Module
    part: nn.Module
    path: Path
    sample: dict[str, Tensor]
    output: str

    def expected(self, inputs: dict[str, Tensor]) -> np.ndarray:
        with torch.no_grad():
            return self.part(**inputs)[self.output].numpy()


def make_conditional(model: nn.Module, **settings: object) -> nn.Module:
    """Attach, and give every new parameter a value that matters."""
    ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=5, **settings))
    with torch.no_grad():
        for path, parameter in adapter_parameters(model, "default"):
            if ".coda_adapters." in path:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_tiny(key: str, **settings: object) -> tuple[nn.Module, nn.Module, dict[str, Tensor], str]:
    """Return a conditional model, what of it is exported, inputs for that, and the output."""
    name, _, mode = key.partition("-")
    tiny = TINY_MODELS[name]
    settings = {"reduction_factor": REDUCTION, "attention_mode": mode, **settings}
    model = make_conditional(tiny.build(tiny.attention), **settings)
    padding = next((side for side in tiny.paddings if side != "none"), "none")
    inputs = {k: v for k, v in tiny.make_inputs(padding).items() if not k.startswith("decoder_")}
    is_encoder = model.config.is_encoder_decoder
    has_head = (
        not is_encoder and hasattr(model.config, "num_labels") and "logits" in model(**inputs)
    )
    part = model.get_encoder() if is_encoder else model
    return model, part, inputs, "logits" if has_head else "last_hidden_state"


@pytest.fixture(scope="module", params=TEXTS)
def text(request, tmp_path_factory) -> Exported:
    return export_tiny(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=FIXED)
def fixed(request, tmp_path_factory) -> Exported:
    return export_tiny(request.param, tmp_path_factory)


def export_tiny(key: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model, part, sample, output = make_tiny(key)
    path = tmp_path_factory.mktemp("onnx") / "new" / f"{key}.onnx"
    assert export_onnx(part, path, sample_inputs=sample) == path
    return Exported(model, part, path, sample, output)


def text_batch(lengths: tuple[int, ...], seq: int, side: str) -> dict[str, Tensor]:
    """Make a batch of few different tokens, with padding on one side."""
    positions = torch.arange(seq).expand(len(lengths), seq)
    positions = positions if side == "right" else positions.flip(-1)
    mask = (positions < torch.tensor(lengths).unsqueeze(-1)).long()
    ids = torch.randint(3, 15, mask.shape)
    return {"input_ids": ids * mask, "attention_mask": mask}


def rows_of_heavy_maps(exported: Exported, inputs: dict[str, Tensor]) -> set[tuple[int, ...]]:
    """Return the leading axes of what every frozen linear map of every layer is given in ORT.

    The maps are found in the file by the values of their weights.
    """
    file = onnx.load(exported.path)
    values = {entry.name: numpy_helper.to_array(entry) for entry in file.graph.initializer}
    weights = [
        module.weight.detach().numpy().T
        for layer in conditional_layers(exported.model)
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear) and "coda_" not in path
    ]
    found = []
    for weight in weights:
        names = {
            name
            for name, value in values.items()
            if value.size == weight.size
            and value.ndim == 2
            and (np.array_equal(value, weight) or np.array_equal(value, weight.T))
        }
        nodes = [n for n in file.graph.node if names & set(n.input)]
        assert [n.op_type for n in nodes] in (["MatMul"], ["Gemm"]), (names, nodes)
        found.append(nodes[0].output[0])
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in found)
    changed = exported.path.with_name("all_outputs.onnx")
    onnx.save(file, changed)
    arrays = {k: v.numpy() for k, v in inputs.items()}
    results = open_session(changed).run(found, arrays)
    return {result.shape[:-1] for result in results}


@pytest.mark.parametrize("lengths, seq, side", BATCHES)
def test_a_text_model_gives_the_same_numbers_for_any_batch_length_and_padding(
    text: Exported, lengths, seq, side
) -> None:
    inputs = text_batch(lengths, seq, side)
    expected, found = text.expected(inputs), run_onnx(text.path, inputs)
    if text.output == "last_hidden_state":
        valid = inputs["attention_mask"].bool().numpy()
        expected, found = expected[valid], found[valid]
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_the_numbers_of_a_text_model_depend_on_r_and_on_the_mask(text: Exported) -> None:
    # So that the comparisons above mean something.
    inputs = text_batch((4, 13, 9), 13, "right")
    found = run_onnx(text.path, inputs)
    ca.set_reduction_factor(text.model, REDUCTION - 1)
    try:
        other = text.expected(inputs)
    finally:
        ca.set_reduction_factor(text.model, REDUCTION)
    assert np.abs(found[:, 0] - other[:, 0]).max() > 1e-4
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    assert np.abs(found[0] - run_onnx(text.path, inputs)[0]).max() > 1e-4


@pytest.mark.parametrize("lengths, seq, side", BATCHES)
def test_heavy_maps_of_a_text_model_see_k_tokens(text: Exported, lengths, seq, side) -> None:
    rows = rows_of_heavy_maps(text, text_batch(lengths, seq, side))
    k = -(-seq // REDUCTION)
    allowed = {(len(lengths), k)}
    if text.path.stem.endswith("k_to_all"):
        allowed |= {(len(lengths), seq)}  # keys and values
    assert {r if len(r) == 2 else (len(lengths), r[0] // len(lengths)) for r in rows} == allowed


def test_equal_tokens_are_chosen_in_the_same_order(text: Exported) -> None:
    inputs = text_batch((17, 30), 30, "right")
    inputs["input_ids"] = inputs["input_ids"].clamp(max=1) * 5
    expected, found = text.expected(inputs), run_onnx(text.path, inputs)
    if text.output == "last_hidden_state":
        expected, found = expected[0, :17], found[0, :17]
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_inputs_and_outputs_have_their_names_and_open_axes(text: Exported) -> None:
    session = open_session(text.path)
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert inputs == {key: ["batch", "length"] for key in ("input_ids", "attention_mask")}
    (output,) = session.get_outputs()
    assert output.name == text.output
    assert output.shape[0] == "batch"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_model_of_fixed_size_gives_the_same_numbers_for_any_batch(
    fixed: Exported, batch: int
) -> None:
    inputs = {k: v[torch.arange(batch) % 2] for k, v in fixed.sample.items()}
    for value in inputs.values():
        if value.is_floating_point():
            value.add_(torch.randn_like(value))
    expected, found = fixed.expected(inputs), run_onnx(fixed.path, inputs)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_heavy_maps_of_a_model_of_fixed_size_see_k_tokens(fixed: Exported) -> None:
    with torch.no_grad():
        states = fixed.part(**fixed.sample, output_hidden_states=True).hidden_states
    batch, seq, _ = states[0].shape
    assert rows_of_heavy_maps(fixed, fixed.sample) == {(batch, -(-seq // REDUCTION))}


@pytest.mark.parametrize(
    "soft_topk, gate", [("iterative", "weighted"), ("exact", "straight_through")]
)
@pytest.mark.parametrize("key", ["bert-k_to_k", "t5-k_to_k"])
def test_a_program_of_torch_export_gives_the_same_numbers_and_computes_on_k_tokens(
    key, soft_topk, gate
) -> None:
    _, part, sample, output = make_tiny(key, soft_topk=soft_topk, gate=gate)
    program = export_program(part, sample).module()
    for lengths, seq, side in BATCHES[1:]:
        inputs = text_batch(lengths, seq, side)
        with torch.no_grad():
            expected = part(**inputs)[output]
            found = program(*inputs.values())
        if output == "last_hidden_state":
            valid = inputs["attention_mask"].bool()
            expected, found = expected[valid], found[valid]
        torch.testing.assert_close(found, expected, **TOLERANCE)
    inputs = text_batch((30, 31), 31, "right")
    counts = []
    for run in (lambda: part(**inputs), lambda: program(*inputs.values())):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        products = counter.get_flop_counts()["Global"]
        counts.append({k: v for k, v in products.items() if "mm" in str(k)})
    assert sum(counts[0].values()) == sum(counts[1].values())


@pytest.mark.parametrize("router_kind, opset", [("first", 18), ("strided", 20), ("random", 22)])
def test_the_baselines_of_routing_export_to_every_opset(router_kind, opset, tmp_path) -> None:
    model, _, sample, _ = make_tiny("bert-k_to_k", router_kind=router_kind)
    export_onnx(model, tmp_path / "model.onnx", sample_inputs=sample, opset=opset)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset
    inputs = text_batch((4, 13, 9), 13, "right")
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    found = run_onnx(tmp_path / "model.onnx", inputs)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_k_is_computed_in_double_precision(tmp_path) -> None:
    # 39 / 1.3 is 30; in float32 it is a little more.
    model, part, sample, output = make_tiny("bert-k_to_k", reduction_factor=1.3)
    path = export_onnx(model, tmp_path / "model.onnx", sample_inputs=sample)
    inputs = text_batch((39, 39), 39, "right")
    exported = Exported(model, part, path, sample, output)
    assert rows_of_heavy_maps(exported, inputs) == {(2, 30)}
    np.testing.assert_allclose(run_onnx(path, inputs), exported.expected(inputs), **TOLERANCE)


class Budgets(nn.Module):
    """The budgets of rows, and that of the longest, next to each other."""

    def __init__(self, reduction_factor: float) -> None:
        super().__init__()
        self.reduction_factor = reduction_factor

    def forward(self, lengths: Tensor) -> dict[str, Tensor]:
        seq = lengths.shape[1]
        longest = torch.arange(token_budget(seq, self.reduction_factor)).numel()
        budgets = token_budget(lengths, self.reduction_factor)
        return {"logits": torch.cat([budgets, torch.full_like(lengths[:, :1], longest)], dim=1)}


@pytest.mark.parametrize("reduction_factor", [1.1, 1.3, 2.3, 7])
def test_budgets_are_the_same_for_every_length(reduction_factor, tmp_path) -> None:
    model = Budgets(reduction_factor)
    lengths = torch.arange(4000).view(2, 2000)
    path = export_onnx(model, tmp_path / "model.onnx", sample_inputs={"lengths": lengths})
    session = open_session(path)
    for seq in range(1, 2000, 19):
        part = lengths[:, :seq]
        (found,) = session.run(None, {"lengths": part.numpy()})
        np.testing.assert_array_equal(found, model(part)["logits"].numpy())


class Selection(nn.Module):
    """The choice of k = ceil(n / 3) tokens by their scores."""

    def forward(self, scores: Tensor, token_mask: Tensor) -> dict[str, Tensor]:
        top_k = token_budget(scores.shape[1], 3.0)
        mask = token_mask.bool()
        budgets = token_budget(mask.sum(-1), 3.0)
        indices, is_selected = select_tokens(
            scores, top_k=top_k, budgets=budgets, token_mask=mask, always=prefix_mask(1, mask)
        )
        return {"logits": torch.where(is_selected, indices, -1)}


def test_ties_and_zeros_of_both_signs_are_ranked_alike(tmp_path) -> None:
    model = Selection()
    names = ("scores", "token_mask")
    mask = (torch.arange(29) < torch.randint(1, 30, (64, 1))).long()
    numbers = torch.tensor([-1.0, -0.0, 0.0, 1.0, torch.inf])
    scores = numbers[torch.randint(5, (64, 29))]
    inputs = dict(zip(names, (scores, mask), strict=True))
    path = export_onnx(model, tmp_path / "model.onnx", sample_inputs=inputs, dynamic_axes={})
    found = run_onnx(path, inputs)
    np.testing.assert_array_equal(found, model(scores, mask)["logits"].numpy())


@pytest.mark.parametrize(
    "settings", [{}, {"gate": "straight_through"}, {"router_kind": "strided"}], ids=str
)
def test_without_a_mask_every_token_counts_as_valid(settings, tmp_path) -> None:
    model, part, sample, output = make_tiny("bert-k_to_k", **settings)
    path = export_onnx(
        model, tmp_path / "model.onnx", sample_inputs={"input_ids": sample["input_ids"]}
    )
    exported = Exported(model, part, path, sample, output)
    for batch, seq in [(1, 40), (3, 7)]:
        inputs = {"input_ids": torch.randint(3, 15, (batch, seq))}
        assert rows_of_heavy_maps(exported, inputs) == {(batch, -(-seq // REDUCTION))}
        np.testing.assert_allclose(run_onnx(path, inputs), exported.expected(inputs), **TOLERANCE)


@pytest.fixture(scope="module")
def minilm(needs, tmp_path_factory) -> Exported:
    needs("minilm")
    torch.manual_seed(0)
    model = load_packaged_model("minilm")
    ca.attach(model, ca.ConditionalAdapterConfig())
    with torch.no_grad():  # a fresh adapter adds nothing
        for path, parameter in adapter_parameters(model, "default"):
            if path.endswith(".up"):
                parameter.normal_(std=0.01)
    path = tmp_path_factory.mktemp("minilm") / "model.onnx"
    export_onnx(model, path, output="last_hidden_state", metadata={"labels": "[]"})
    return Exported(model, model, path, make_sample_inputs(model), "last_hidden_state")


MINILM_BATCHES = [((37, 20, 9), 37), ((128,), 128)]


@pytest.mark.parametrize("lengths, seq", MINILM_BATCHES)
def test_minilm_gives_the_same_numbers(minilm: Exported, lengths, seq) -> None:
    inputs = minilm_batch(lengths, seq)
    valid = inputs["attention_mask"].bool().numpy()
    expected, found = minilm.expected(inputs), run_onnx(minilm.path, inputs)
    np.testing.assert_allclose(found[valid], expected[valid], atol=1e-4, rtol=0)
    assert rows_of_heavy_maps(minilm, inputs) == {(len(lengths), -(-seq // 4))}


def test_minilm_in_8_bits_is_a_quarter_of_the_size_and_close(minilm: Exported) -> None:
    path = quantize_onnx(minilm.path, minilm.path.with_name("int8.onnx"))
    encoder = sum(p.numel() for layer in minilm.model.encoder.layer for p in layer.parameters())
    assert minilm.path.stat().st_size - path.stat().st_size > 2.8 * encoder
    assert read_metadata(path)["labels"] == "[]"
    inputs = minilm_batch((37, 20, 9), 37)
    expected, found = (torch.from_numpy(run_onnx(p, inputs))[:, 0] for p in (minilm.path, path))
    assert torch.cosine_similarity(expected, found).min() > 0.97
    assert not torch.equal(expected, found)


def minilm_batch(lengths: tuple[int, ...], seq: int) -> dict[str, Tensor]:
    inputs = text_batch(lengths, seq, "right")
    ids = torch.randint(1000, 30000, inputs["input_ids"].shape)
    return inputs | {"input_ids": ids * inputs["attention_mask"]}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"opset": 17}, "from 18 to 22, got 17"),
        ({"batch_size": 1}, r"shape \(1, 16\), but a dynamic axis needs a size of at least 2"),
        ({"sequence_length": 1}, "a size of at least 2"),
        ({"output": "pooled"}, r"returns \['logits'\], but none of \['pooled'\]"),
        ({"dynamic_axes": {"ids": (0,)}}, r"names 'ids', but sample_inputs has \['input_ids'"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, message, tmp_path) -> None:
    model = make_conditional(TINY_MODELS["bert"].build("sdpa"))
    with pytest.raises(ca.ConfigError, match=message):
        export_onnx(model, tmp_path / "model.onnx", **arguments)
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_asks_for_numbers_on_the_host_is_refused(tmp_path) -> None:
    tiny = TINY_MODELS["siglip2_vision_model"]
    model = make_conditional(tiny.build("sdpa"))
    with pytest.raises(ca.ConfigError, match="data-dependent control flow"):
        export_onnx(model, tmp_path / "model.onnx", sample_inputs=tiny.inputs())
