"""`prepack_weights`: the same answers by another product, and never those of an old weight."""

import copy
import pickle
import subprocess
import sys
from collections import Counter

import peft
import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache, run_and_get_code
from transformers import PreTrainedModel

import conditional_adapters as ca
from benchmarks._products import OperatorObserver
from conditional_adapters.analysis.timing import compile_module
from conditional_adapters.modules.adapter import ParallelAdapter
from conditional_adapters.prepacking import modules as prepacked_modules
from conditional_adapters.prepacking.modules import PrepackedAdapter, PrepackedModule
from tests.helpers.conditional_models import REPRESENTATIVES, logits_of, make_conditional
from tests.helpers.gradients import assert_gradients_close, gradients_of
from tests.helpers.tiny_models import TINY_MODELS

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)


class PrepackedProducts(OperatorObserver):
    """Counts products with prepacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def observe(self, func, args, kwargs) -> None:
        self.num_calls += func._overloadpacket is torch.ops.mkldnn._linear_pointwise


def make(
    name: str = "bert", padding: str = "right", mode: str = "k_to_k"
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention), attention_mode=mode)
    return model, tiny.make_inputs(padding)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name, padding, mode", REPRESENTATIVES)
def test_a_prepacked_model_answers_the_same(name, padding, mode) -> None:
    model, inputs = make(name, padding, mode)
    expected = logits_of(model, inputs)
    ca.set_adapter(model, None)
    dense = logits_of(model, inputs)
    assert ca.prepack_weights(model) is model
    num_linear = sum(isinstance(module, PrepackedModule) for module in model.modules())
    with PrepackedProducts() as products:
        assert_close(logits_of(model, inputs), dense)
    assert 0 < products.num_calls <= 2 * num_linear
    ca.set_adapter(model, "default")
    with PrepackedProducts() as products:
        assert_close(logits_of(model, inputs), expected)
    assert products.num_calls > 0


@torch.no_grad()
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "identity"])
def test_a_prepacked_adapter_adds_what_it_added(activation) -> None:
    adapter = ParallelAdapter(24, 7, activation=activation)
    nn.init.normal_(adapter.up)
    plain = copy.deepcopy(adapter)
    states, residual = torch.randn(3, 5, 24), torch.randn(3, 5, 24)
    expected, before = plain(states, residual), residual.clone()
    ca.prepack_weights(adapter)
    assert isinstance(adapter, PrepackedAdapter)
    assert type(adapter).__qualname__ == "PrepackedParallelAdapter"
    with PrepackedProducts() as products:
        assert_close(adapter(states, residual), expected)
    assert products.num_calls == 2
    assert torch.equal(residual, before)
    for module in (adapter, plain):
        module.up.mul_(2)
    assert_close(adapter(states, residual), plain(states, residual))
    # Other types go the usual way, which keeps the residual stream in its own.
    with PrepackedProducts() as products:
        assert adapter(states, residual.double()).dtype == torch.float64
        assert adapter(states.bfloat16(), residual.bfloat16()).dtype == torch.bfloat16
    assert products.num_calls == 0
    ca.remove_prepacked_weights(adapter)
    assert torch.equal(adapter(states, residual), plain(states, residual))
    assert type(adapter) is ParallelAdapter


@torch.no_grad()
def test_removing_and_detaching_give_the_bits_that_were_there() -> None:
    model, inputs = make()
    expected, classes = logits_of(model, inputs), Counter(map(type, model.modules()))
    ca.remove_prepacked_weights(ca.prepack_weights(ca.prepack_weights(model)))
    assert torch.equal(logits_of(model, inputs), expected)
    assert Counter(map(type, model.modules())) == classes
    assert not any("coda_prepacked" in vars(module) for module in model.modules())
    ca.set_adapter(model, None)
    dense = logits_of(model, inputs)
    assert torch.equal(logits_of(ca.detach(ca.prepack_weights(model)), inputs), dense)


@torch.no_grad()
def test_what_came_after_prepacking_stays() -> None:
    tiny = TINY_MODELS["bert"]
    model, inputs = tiny.build(tiny.attention), tiny.make_inputs("right")
    torch.manual_seed(0)
    expected = logits_of(make_conditional(copy.deepcopy(model)), inputs)
    torch.manual_seed(0)
    late = make_conditional(ca.prepack_weights(model))  # its head becomes switchable afterwards
    assert_close(logits_of(late, inputs), expected)
    ca.remove_prepacked_weights(late)
    assert torch.equal(logits_of(late, inputs), expected)


def test_training_goes_on_as_without_and_the_next_answer_has_the_new_weights() -> None:
    plain, inputs = make()
    prepacked = ca.prepack_weights(copy.deepcopy(plain))
    for model in (plain, prepacked):
        logits_of(model, inputs).square().sum().backward()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        torch.optim.SGD(weights, lr=0.01).step()
    found, expected = (gradients_of(model.named_parameters()) for model in (prepacked, plain))
    assert_gradients_close(found, expected, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            logits_of(prepacked, inputs), logits_of(plain, inputs), atol=1e-3, rtol=1e-3
        )


def by_optimiser(linear: nn.Linear) -> None:
    linear(torch.ones(1, 6)).sum().backward()
    torch.optim.SGD(linear.parameters(), lr=1.0).step()


def by_loading(linear: nn.Linear) -> None:
    linear.load_state_dict({name: value + 1 for name, value in linear.state_dict().items()})


def by_assigning(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.detach() + 1)


def through_data(linear: nn.Linear) -> None:
    linear.weight.data += 1


def with_other_data(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data + 1


def by_type(linear: nn.Linear) -> None:
    linear.double().float()
    linear.bfloat16()


@pytest.mark.parametrize(
    "change", [by_optimiser, by_loading, by_assigning, through_data, with_other_data, by_type]
)
def test_a_changed_weight_is_noticed(change) -> None:
    linear = ca.prepack_weights(nn.Sequential(nn.Linear(6, 40)))[0]
    with torch.no_grad():
        before = linear(torch.ones(3, 6))
    change(linear)
    states = torch.ones(3, 6, dtype=linear.weight.dtype)
    with torch.no_grad(), PrepackedProducts() as products:
        found = linear(states)
    expected = nn.functional.linear(states, linear.weight, linear.bias)
    has_instructions = change is not by_type or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert products.num_calls == (1 if has_instructions else 0)
    tolerance = 1e-5 if linear.weight.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    if change is not by_type:
        assert not torch.allclose(found, before)


def test_a_merged_lora_is_noticed() -> None:
    base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["0", "2"], r=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    states = torch.randn(5, 8)
    with torch.no_grad():
        expected = model(states)
        ca.prepack_weights(model)
        assert_close(model(states), expected)
        assert_close(model.merge_and_unload()(states), expected)


@torch.no_grad()
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_clones_are_whole_and_independent(clone) -> None:
    model, inputs = make()
    expected = logits_of(ca.prepack_weights(model), inputs)
    other = clone(model)
    for weight in model.parameters():
        weight.zero_()
    with PrepackedProducts() as products:
        assert_close(logits_of(other, inputs), expected)
    assert products.num_calls > 0


def test_files_and_counts_are_those_of_the_model_without(tmp_path) -> None:
    model, inputs = make()
    count, keys = ca.estimate_flops(model, inputs=inputs), list(model.state_dict())
    ca.prepack_weights(model)
    assert ca.estimate_flops(model, inputs=inputs) == count
    assert list(model.state_dict()) == keys
    ca.save_adapter(model, tmp_path)
    loaded = ca.detach(copy.deepcopy(model))
    ca.load_adapter(loaded, tmp_path)
    with torch.no_grad():
        assert_close(logits_of(loaded, inputs), logits_of(model, inputs))


@torch.no_grad()
def test_autocast_and_other_types_go_the_old_way() -> None:
    linear = ca.prepack_weights(nn.Sequential(nn.Linear(6, 4)))
    with PrepackedProducts() as products:
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(torch.ones(2, 6)).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="dtype"):
            linear(torch.ones(2, 6, dtype=torch.float64))
    assert products.num_calls == 0


def test_the_former_names_warn_and_work() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    with pytest.warns(DeprecationWarning, match="Call prepack_weights") as prepacking:
        assert ca.pack_weights(model) is model
    assert isinstance(model[0], PrepackedModule)
    with pytest.warns(DeprecationWarning, match="Call remove_prepacked_weights") as removing:
        assert ca.unpack_weights(model) is model
    assert type(model[0]) is nn.Linear
    assert prepacking[0].filename == removing[0].filename == __file__


def test_a_model_without_such_weights_is_refused() -> None:
    with pytest.raises(ca.AttachmentError, match="no weight can be prepacked"):
        ca.prepack_weights(nn.Sequential(nn.ReLU()))
    with pytest.raises(ca.AttachmentError, match="no weight can be prepacked"):
        ca.prepack_weights(nn.Linear(3, 3, dtype=torch.float64))


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """The shapes of the states that prepacked weights were multiplied by."""
    torch._dynamo.reset()
    shapes: list[torch.Size] = []
    multiply = prepacked_modules.prepacked_linear

    def counted(states: Tensor, *others: Tensor | None) -> Tensor:
        shapes.append(states.shape)
        return multiply(states, *others)

    monkeypatch.setattr(prepacked_modules, "prepacked_linear", counted)
    return shapes


@pytest.mark.compile
@torch.no_grad()
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_operator_of_graphs_finds_the_copy_of_its_weight(with_residual, products) -> None:
    linear = ca.prepack_weights(nn.Sequential(nn.Linear(6, 4)))[0]
    states = torch.randn(2, 3, 6)
    residual = torch.randn(2, 3, 4) if with_residual else None
    operator = torch.ops.conditional_adapters.prepacked_linear
    torch.library.opcheck(operator.default, (states, linear.weight, linear.bias, residual))

    def check(weight: Tensor, num_prepacked: int) -> None:
        expected = nn.functional.linear(states, weight, linear.bias)
        expected = expected if residual is None else expected + residual
        products.clear()
        assert_close(operator(states, weight, linear.bias, residual), expected)
        assert len(products) == num_prepacked

    check(linear.weight, 1)
    check(linear.weight.detach(), 1)  # the same memory
    linear.weight.mul_(2)
    check(linear.weight, 1)  # prepacked again
    check(linear.weight.clone(), 0)  # the same values elsewhere: nothing is known of them
    linear.weight.data = linear.weight.data + 1
    check(linear.weight, 0)
    square = ca.prepack_weights(nn.Sequential(nn.Linear(6, 6)))[0]
    linear.bias = nn.Parameter(torch.ones(6))
    residual = torch.randn(2, 3, 6) if with_residual else None
    check(square.weight, 1)
    check(square.weight.t(), 0)  # begins at the same address


def test_the_file_can_be_loaded_again() -> None:
    code = (
        "import importlib, torch, conditional_adapters as ca;"
        "from conditional_adapters.prepacking import modules;"
        "importlib.reload(modules);"
        "operator = torch.ops.conditional_adapters.prepacked_linear.default;"
        "states, weight = torch.randn(2, 3), torch.randn(4, 3);"
        "expected = torch.nn.functional.linear(states, weight);"
        "torch.testing.assert_close(operator(states, weight, None, None), expected)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@torch.no_grad()
def test_copies_go_with_their_module() -> None:
    before = len(prepacked_modules._PREPACKED)
    model = ca.prepack_weights(nn.Sequential(nn.Linear(6, 4)))
    weight = model[0].weight
    assert prepacked_modules._PREPACKED[weight.data_ptr()].weight is weight
    ca.remove_prepacked_weights(model)
    assert weight.data_ptr() not in prepacked_modules._PREPACKED
    assert len(prepacked_modules._PREPACKED) == before


@pytest.mark.compile
@torch.no_grad()
@pytest.mark.parametrize("how", ["eager", "python", "C++"])
def test_a_prepacked_model_compiles_as_one_graph_that_uses_the_copies(how, products) -> None:
    model, inputs = make()
    expected = logits_of(ca.prepack_weights(model), inputs)
    num_eager = len(products)
    products.clear()
    if how == "eager":
        compiled = torch.compile(model, fullgraph=True, backend="eager")
    else:
        compiled = compile_module(model, cpp_wrapper=how == "C++")
    with fresh_cache():  # for its code to be written anew
        found, written = run_and_get_code(logits_of, compiled, inputs)
    assert_close(found, expected)
    assert ["inductor_entry_impl" in code for code in written] == {
        "eager": [], "python": [False], "C++": [True],
    }[how]  # fmt: skip
    products.clear()
    assert_close(logits_of(compiled, inputs), expected)
    assert len(products) == num_eager > 0


@pytest.mark.compile
@torch.no_grad()
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_clone_that_is_compiled_first_uses_copies_of_its_own(clone, products) -> None:
    model, inputs = make()
    expected = logits_of(ca.prepack_weights(model), inputs)
    num_eager = len(products)
    products.clear()
    other = clone(model)
    for weight in model.parameters():
        weight.zero_()
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    assert_close(logits_of(compiled, inputs), expected)
    assert len(products) >= num_eager > 0


@pytest.mark.compile
@pytest.mark.parametrize("change", [by_optimiser, by_loading, through_data, with_other_data])
def test_a_compiled_graph_has_the_new_weights(change, products) -> None:
    model = ca.prepack_weights(nn.Sequential(nn.Linear(6, 40)))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    states = torch.ones(3, 6)
    with torch.no_grad():
        compiled(states)
    assert len(products) == 1
    change(model[0])
    with torch.no_grad():
        found = compiled(states)
        assert_close(found, nn.functional.linear(states, model[0].weight, model[0].bias))


@pytest.mark.compile
def test_a_compiled_graph_that_trains_has_its_gradients(products) -> None:
    plain, inputs = make()
    prepacked = ca.prepack_weights(copy.deepcopy(plain))
    compiled = torch.compile(prepacked, fullgraph=True, backend="aot_eager")
    logits_of(plain, inputs).square().sum().backward()
    logits_of(compiled, inputs).square().sum().backward()
    found, expected = (gradients_of(model.named_parameters()) for model in (prepacked, plain))
    assert_gradients_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.compile
@torch.no_grad()
def test_an_exported_graph_has_no_prepacked_weights() -> None:
    model = ca.prepack_weights(nn.Sequential(nn.Linear(6, 4)))
    program = torch.export.export(model, (torch.ones(2, 6),))
    assert {node.target for node in program.graph.nodes if node.op == "call_function"} == {
        torch.ops.aten.linear.default
    }
