"""What every architecture promises (DESIGN: "the contract"), for every record in the registry."""

import copy
import math
import pickle
import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import conditional_adapters as ca
from conditional_adapters.architectures import _registry
from conditional_adapters.model.attachment import adapter_parameters, conditional_layers
from conditional_adapters.model.structure import find_sites
from tests.helpers import ROOT
from tests.helpers.conditional_models import (
    REDUCTION,
    all_states,
    logits_and_states_of,
    logits_of,
    make_conditional,
    make_tiny,
    states_of,
)
from tests.helpers.dense_oracle import oracle
from tests.helpers.gradients import assert_gradients_close, assert_only_trained, gradients_of
from tests.helpers.tiny_models import TINY_MODELS
from tests.helpers.tiny_models.custom_encoder import CUSTOM_ENCODER

ARCHITECTURES = list(TINY_MODELS)
CASES = [
    pytest.param(name, attention, padding, mode, id=f"{name}-{attention}-{padding}-{mode}")
    for name, tiny in TINY_MODELS.items()
    for attention in tiny.attentions
    for padding in tiny.paddings
    for mode in tiny.modes
]
MODES = [
    pytest.param(name, mode, id=f"{name}-{mode}")
    for name, tiny in TINY_MODELS.items()
    for mode in tiny.modes
]
# What does not depend on the mode is checked in the one that changes more.
RICHEST = [
    pytest.param(name, tiny.modes[-1], id=f"{name}-{tiny.modes[-1]}")
    for name, tiny in TINY_MODELS.items()
]
PADDED = [name for name, tiny in TINY_MODELS.items() if "right" in tiny.paddings]


@pytest.fixture(autouse=True)
def skip_what_the_dense_family_cannot_do(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    callspec = getattr(request.node, "callspec", None)
    params = callspec.params if callspec else {}
    for key, value in params.items():  # for the support matrix
        record_property(key, str(value))
    name, check = params.get("name"), request.node.originalname
    skips = TINY_MODELS[name].skips if name in TINY_MODELS else {}
    for key in (check, request.node.name):  # all cases of a check, or one of them
        if key in skips:
            pytest.skip(skips[key])


@pytest.mark.parametrize(
    "name, attention, padding, mode, reduction_factor",
    [
        pytest.param(*case.values, factor, id=f"{case.id}-{factor}")
        for case in CASES
        for factor in (1, 1.0001)
        if factor > 1 or case.values[-1] == "k_to_k"  # at 1 nothing is chosen
    ],
)
def test_a_fresh_adapter_that_keeps_all_tokens_equals_the_dense_model(
    name: str, attention: str, padding: str, mode: str, reduction_factor: float
) -> None:
    tiny = TINY_MODELS[name]
    if padding != "none" and reduction_factor > 1 and not tiny.is_padding_invariant:
        pytest.skip("dense tokens depend on what the layers make of padding, which is not routed")
    model, inputs = tiny.build(attention), tiny.make_inputs(padding)
    config = ca.ConditionalAdapterConfig(
        reduction_factor=reduction_factor, adapter_dim=5, attention_mode=mode
    )
    with torch.no_grad():
        dense_logits, dense = logits_and_states_of(model, inputs)
        ca.attach(model, config)
        logits, states = logits_and_states_of(model, inputs)
    valid = tiny.valid(model, inputs, states.shape[2])
    torch.testing.assert_close(states[:, valid], dense[:, valid], atol=1e-5, rtol=1e-5)
    if logits.shape[:2] == valid.shape:  # a head for every token
        logits, dense_logits = logits[valid], dense_logits[valid]
    elif padding == "left":  # heads that read position 0 read padding there, dense ones too
        return
    torch.testing.assert_close(logits, dense_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, attention, padding, mode", CASES)
def test_a_layer_equals_the_dense_layer_with_unselected_keys_masked(
    name: str, attention: str, padding: str, mode: str
) -> None:
    tiny = TINY_MODELS[name]
    model, inputs = (
        make_conditional(tiny.build(attention), attention_mode=mode),
        tiny.make_inputs(padding),
    )
    calls = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, args, kwargs, output: calls.append((layer, args, kwargs, output)),
            with_kwargs=True,
        )
        for layer in conditional_layers(model)
    ]
    with torch.no_grad(), ca.record_routing(model) as routing:
        logits_of(model, inputs)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(routing.layers)
    for (layer, args, kwargs, output), decision in zip(calls, routing.layers, strict=True):
        actual = output[0] if isinstance(output, tuple) else output
        with torch.no_grad():
            valid = tiny.valid(model, inputs, actual.shape[1])
            expected = oracle(tiny, layer, args, kwargs, decision, valid)
        torch.testing.assert_close(actual[valid], expected[valid], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_norm_of_the_record_is_what_a_dense_layer_calls_on_its_input_first(name: str) -> None:
    tiny = TINY_MODELS[name]
    model = tiny.build(tiny.attention)
    sites = find_sites(model)
    called = {
        layer: modules_called_on_the_input(layer)
        for layer in (*sites.encoder_layers, *(sites.decoder_layers or ()))
    }
    with torch.no_grad():
        logits_of(model, tiny.inputs())
    for layer, paths in called.items():
        norm = sites.spec.resolve(sites.config).input_norm
        norms = [path for path in paths if is_norm(layer.get_submodule(path))]
        if norm is None:
            assert norms == []
        else:
            assert paths[:1] == norms[:1] == [norm]


def modules_called_on_the_input(layer: nn.Module) -> list[str]:
    """Note, in the order of their calls, the paths of the modules that get the layer's own input.

    Modules made of others, such as an attention block around its norm, do not count. WavLM's
    attention without a norm before it calls none: it takes its weights and computes by itself.
    """
    paths: list[str] = []
    layer_input = torch.empty(0)

    def enter(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        nonlocal layer_input
        layer_input = args[0] if args else kwargs["hidden_states"]
        paths.clear()  # ALBERT applies a layer again and again

    def note(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], path: str
    ) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and torch.equal(value, layer_input):
                paths.append(path)

    layer.register_forward_pre_hook(enter, with_kwargs=True)
    for path, module in layer.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_pre_hook(partial(note, path=path), with_kwargs=True)
    return paths


def is_norm(module: nn.Module) -> bool:
    # The first layer of ModernBERT has nothing in the place of its norm: the embeddings have it.
    return isinstance(module, nn.Identity) or type(module).__name__.endswith("Norm")


@pytest.mark.parametrize("name, attention, padding, mode", CASES)
def test_selection_keeps_prefix_skips_padding_and_meets_each_rows_budget(
    name: str, attention: str, padding: str, mode: str
) -> None:
    tiny = TINY_MODELS[name]
    model, inputs = (
        make_conditional(tiny.build(attention), attention_mode=mode),
        tiny.make_inputs(padding),
    )
    with torch.no_grad(), ca.record_routing(model) as routing:
        logits_of(model, inputs)
    for decision in routing.layers:
        valid = tiny.valid(model, inputs, decision.router_logits.shape[1])
        for row in range(2):
            positions = valid[row].nonzero().flatten()
            chosen = decision.selected_indices[row][decision.is_selected[row]]
            fixed = tiny.num_prefix_tokens + tiny.num_suffix_tokens
            budget = max(math.ceil(len(positions) / REDUCTION), fixed)
            assert len(chosen) == budget
            assert (chosen.diff() > 0).all()
            assert valid[row, chosen].all()
            last = len(positions) - tiny.num_suffix_tokens
            always = positions[: tiny.num_prefix_tokens].tolist() + positions[last:].tolist()
            assert set(always) <= set(chosen.tolist())
            others = [p for p in positions.tolist() if p not in always]
            best = sorted(others, key=lambda p: -decision.router_logits[row, p].item())
            expected = sorted(always + best[: budget - len(always)])
            assert chosen.tolist() == expected


@pytest.mark.parametrize(
    "name, attention, side, mode",
    [case.values for case in CASES if case.values[2] != "none"],
)
def test_a_sequence_gets_the_same_answer_alone_and_in_a_padded_batch(
    name: str, attention: str, side: str, mode: str
) -> None:
    tiny = TINY_MODELS[name]
    if not tiny.is_padding_invariant:
        pytest.skip("the dense encoder's tokens depend on padding")
    model = make_conditional(tiny.build(attention), attention_mode=mode)
    inputs = tiny.make_inputs(side)
    keep = inputs[tiny.mask_argument][1].bool()
    alone = tiny.cut(inputs, 1, keep)
    if side == "left" and tiny.first_position is not None:
        start = tiny.first_position
        alone["position_ids"] = (keep.nonzero().flatten() + start)[None]
        inputs["position_ids"] = (torch.arange(len(keep)) + start).expand(2, -1)
    with torch.no_grad():
        expected = states_of(model, alone)[:, 0]
        states = states_of(model, inputs)
    actual = states[:, 1][:, tiny.valid(model, inputs, states.shape[2])[1]]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, mode", MODES)
def test_the_frozen_layer_computes_on_the_chosen_tokens_alone(name: str, mode: str) -> None:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention), attention_mode=mode)
    widths: dict[int, set[str]] = {}
    for layer in conditional_layers(model):
        for path, module in layer.named_modules():
            if isinstance(module, nn.Linear) and "coda_" not in path:
                module.register_forward_pre_hook(
                    lambda module, args, path=path: (
                        widths.setdefault(args[0].shape[-2], set()).add(path) and None
                    )
                )
    with torch.no_grad(), ca.record_routing(model) as routing:
        logits_of(model, tiny.inputs())
    first = routing.layers[0]
    seq, top_k = first.router_logits.shape[1], first.selected_indices.shape[1]
    fixed = tiny.num_prefix_tokens + tiny.num_suffix_tokens
    assert top_k == max(math.ceil(seq / REDUCTION), fixed)
    # Nothing but what k-to-all is for, keys and values, is computed for all tokens.
    assert all(is_key_or_value(path) for path in widths.get(seq, set())) or mode == "k_to_k"
    assert widths.keys() <= {top_k, *tiny.extra_rows} | ({seq} if mode == "k_to_all" else set())
    assert len(widths[top_k]) >= 4  # queries, keys and values may be one map; output; two of an MLP


def is_key_or_value(path: str) -> bool:
    name = path.rpartition(".")[2]
    return name in (
        "linear_k",
        "linear_v",
        "key",
        "value",
        "k",
        "v",
        "k_proj",
        "v_proj",
        "k_lin",
        "v_lin",
        "Wqkv",
    )


@pytest.mark.parametrize("name, mode", MODES)
def test_only_the_adapters_parameters_get_gradients_and_all_of_them_do(
    name: str, mode: str
) -> None:
    model, inputs = make_tiny(name, mode)
    # Not only the logits: where a head reads CLS, the last layer's other tokens do not matter.
    logits, states = logits_and_states_of(model, inputs)
    (states[-1].square().sum() + logits.sum()).backward()
    own = {path for path, _ in adapter_parameters(model, "default")}
    assert_only_trained(model.named_parameters(), own)


@pytest.mark.parametrize(
    "name, mode, use_reentrant",
    [
        pytest.param(*case.values, flag, id=f"{case.id}-{flag}")
        for flag, cases in ((False, MODES), (True, RICHEST))
        for case in cases
    ],
)
def test_gradient_checkpointing_gives_the_same_gradients(
    name: str, mode: str, use_reentrant: bool
) -> None:
    tiny = TINY_MODELS[name]
    model = make_conditional(
        tiny.build(tiny.attention), reduction_factor=(2, 3, 4), attention_mode=mode
    ).train()
    inputs = tiny.make_inputs("right" if "right" in tiny.paddings else "none")
    gradients = []
    for is_checkpointed in (False, True):
        model.zero_grad()
        if is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(1)  # dropout and the sampled reduction factor
        logits_of(model, inputs).square().sum().backward()
        gradients.append(gradients_of(adapter_parameters(model, "default")))
    assert_gradients_close(gradients[1], gradients[0], is_scaled=True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_output_hidden_states_hold_every_token_of_every_layer(name: str) -> None:
    model, inputs = make_tiny(name)
    layer_outputs: list[Tensor] = []
    for layer in conditional_layers(model):
        layer.register_forward_hook(
            lambda layer, args, output: layer_outputs.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    states = all_states(output)
    assert len(states) == len(layer_outputs) + 1
    for recorded, true in zip(states[1:-1], layer_outputs[:-1], strict=True):
        assert torch.equal(recorded, true)
    assert states[-1].shape == layer_outputs[-1].shape


@pytest.mark.parametrize("name, mode", MODES)
def test_detach_restores_the_dense_model_bit_for_bit(name: str, mode: str) -> None:
    tiny = TINY_MODELS[name]
    model, inputs = tiny.build(tiny.attention), tiny.inputs()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    classes = [type(m) for m in model.modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        dense = logits_of(model, inputs)
        make_conditional(model, attention_mode=mode)
        assert set(before) <= set(model.state_dict())
        assert not torch.equal(logits_of(model, inputs), dense)
        ca.detach(model)
        assert torch.equal(logits_of(model, inputs), dense)
    assert [type(m) for m in model.modules()] == classes
    assert [p.requires_grad for p in model.parameters()] == trainable
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not [k for m in model.modules() for k in vars(m) if k.startswith("coda_")]
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name, mode", RICHEST)
def test_saving_and_loading_is_bit_exact(name: str, mode: str, tmp_path) -> None:
    tiny = TINY_MODELS[name]
    model, inputs = tiny.build(tiny.attention), tiny.inputs()
    base = {k: v.clone() for k, v in model.state_dict().items()}
    make_conditional(model, attention_mode=mode)
    ca.save_adapter(model, tmp_path / "adapter")
    fresh = tiny.build(tiny.attention)
    fresh.load_state_dict(base)
    ca.load_adapter(fresh, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(logits_of(fresh, inputs), logits_of(model, inputs))


@pytest.mark.parametrize("name, mode", RICHEST)
def test_copies_are_whole_and_independent(name: str, mode: str) -> None:
    model, inputs = make_tiny(name, mode)
    check_clone(model, copy.deepcopy(model), inputs)


@pytest.mark.parametrize("name, mode", RICHEST)
def test_pickles_are_whole_and_independent(name: str, mode: str) -> None:
    model, inputs = make_tiny(name, mode)
    check_clone(model, pickle.loads(pickle.dumps(model)), inputs)


def check_clone(model: PreTrainedModel, clone: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        expected = logits_of(model, inputs)
        assert torch.equal(logits_of(clone, inputs), expected)
        ca.detach(clone)
        assert torch.equal(logits_of(model, inputs), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_precision_stays_close_to_float32(name: str, dtype: torch.dtype) -> None:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(tiny.attention))
    inputs = tiny.make_inputs("right" if "right" in tiny.paddings else "none")
    with torch.no_grad():
        # Selection is discrete: in half precision other tokens may win. Compare where they do not,
        # by routing all tokens.
        ca.set_reduction_factor(model, 1.0001)
        reference = logits_of(model, inputs)
        half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        # Another model, because positions that the first one computed and kept have its type.
        half_model = make_conditional(tiny.build(tiny.attention), reduction_factor=1.0001)
        half_model.load_state_dict(model.state_dict())
        actual = logits_of(half_model.to(dtype), half)
    assert actual.dtype == dtype
    scale = reference.abs().max()
    assert (actual.float() - reference).abs().max() / scale < 0.1


@pytest.mark.parametrize(
    "name, attention, mode",
    [(n, a, m) for n in PADDED for a in TINY_MODELS[n].attentions for m in TINY_MODELS[n].modes],
)
def test_rows_of_padding_and_single_tokens_stay_finite(
    name: str, attention: str, mode: str
) -> None:
    tiny = TINY_MODELS[name]
    model = make_conditional(tiny.build(attention), attention_mode=mode)
    inputs = tiny.make_inputs("right")
    mask = inputs[tiny.mask_argument]
    mask[1] = 0
    assert logits_of(model, inputs).isfinite().all()
    mask[1, : tiny.units_per_token] = 1
    assert logits_of(model, inputs).isfinite().all()
    single = tiny.cut(inputs, 0, torch.arange(mask.shape[1]) < tiny.units_per_token)
    logits_of(model, single).sum().backward()
    for path, parameter in adapter_parameters(model, "default"):
        assert parameter.grad is None or parameter.grad.isfinite().all(), path


STAND_FOR_ALL = ("bert", "t5", "whisper")
COMPILED_TO_ALL = (
    *("bert", "eurobert", "modernbert", "t5", "umt5", "bart", "vit", "dinov3_vit", "beit"),
    *("siglip_vision_model", "whisper", "wav2vec2", "wav2vec2-conformer", "wav2vec2-bert_rotary"),
)


def is_compiled(name: str, attention: str, padding: str, mode: str) -> bool:
    """Compile with padding where there is any, which traces the longer code.

    Without padding the decision is the same code for every record, and k-to-all the same for all
    that take keys and positions alike: some of them stand for all.
    """
    tiny = TINY_MODELS[name]
    is_heaviest = padding == ("right" if "right" in tiny.paddings else "none")
    stands_for_all = name in STAND_FOR_ALL and padding == "none" and mode == "k_to_k"
    is_worth_it = mode == "k_to_k" or name in COMPILED_TO_ALL
    return attention == tiny.attention and ((is_heaviest and is_worth_it) or stands_for_all)


@pytest.mark.compile
@pytest.mark.parametrize(
    "name, padding, mode",
    [case.values[:1] + case.values[2:] for case in CASES if is_compiled(*case.values)],
)
def test_compiling_the_whole_graph_gives_the_same_numbers(
    name: str, padding: str, mode: str
) -> None:
    tiny = TINY_MODELS[name]
    torch._dynamo.reset()
    model = make_conditional(tiny.build(tiny.attention), attention_mode=mode)
    inputs = tiny.make_inputs(padding)
    # Backends that generate no code: graph breaks and wrong shapes show as they do with inductor,
    # at a tenth of the time. Decomposing the operators takes as long again and meets the same code
    # of ours in every model, so a few stand for all; integrations/test_onnx.py exports others.
    backend = "aot_eager" if name in STAND_FOR_ALL and mode == "k_to_k" else "eager"
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        expected = logits_of(model, inputs)
        torch.testing.assert_close(logits_of(compiled, inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.compile
def test_inductor_compiles_a_conditional_model_and_its_gradients() -> None:
    torch._dynamo.reset()
    tiny = TINY_MODELS["bert"]
    model, inputs = make_conditional(tiny.build("sdpa")), tiny.make_inputs("right")
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        run(**inputs).logits.square().sum().backward()
        gradients.append(gradients_of(adapter_parameters(model, "default")))
    assert_gradients_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def test_every_record_of_the_registry_is_under_contract() -> None:
    covered: set[str] = set()
    for tiny in TINY_MODELS.values():
        model = tiny.build(tiny.attention)
        covered |= {model.config.model_type, *find_sites(model).spec.model_types}
    assert covered == set(ca.supported_architectures())


PAGE = ROOT / "docs/add-an-architecture.md"
CONTRACT = {
    name: test
    for name, test in list(globals().items())
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


def cases_of_the_custom_encoder() -> list[object]:
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
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(code, {})
    monkeypatch.setitem(TINY_MODELS, "my-encoder", CUSTOM_ENCODER)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("check, values", cases_of_the_custom_encoder())
def test_the_record_of_the_docs_meets_the_contract(check, values, tmp_path) -> None:
    test = CONTRACT[check]
    wants_path = "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount]
    test(**values, **({"tmp_path": tmp_path} if wants_path else {}))
