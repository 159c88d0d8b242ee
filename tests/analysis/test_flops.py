import math
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import conditional_adapters as ca
from conditional_adapters.analysis.flops import count_flops
from conditional_adapters.analysis.timing import Timing, time_interleaved
from conditional_adapters.model.attachment import adapter_parameters
from tests.helpers.tiny_models import HIDDEN, LAYERS, TINY_MODELS, pad_text

DIM, SEQ, BATCH, INNER, CLASSES = 5, 24, 2, 48, 3


def attached(name: str, **settings: object):
    config = ca.ConditionalAdapterConfig(adapter_dim=DIM, **settings)
    return ca.attach(TINY_MODELS[name].build(TINY_MODELS[name].attention), config)


def bert_layer_flops(tokens: int) -> int:
    """Multiply-adds times two of one BERT layer on `tokens` tokens of each of BATCH rows."""
    projections = 4 * HIDDEN * HIDDEN * tokens
    attention = 2 * tokens * tokens * HIDDEN
    feed_forward = 2 * HIDDEN * INNER * tokens
    return 2 * BATCH * (projections + attention + feed_forward)


def test_flops_of_bert_agree_with_the_closed_form() -> None:
    model = attached("bert", reduction_factor=4)
    head = 2 * BATCH * (HIDDEN * HIDDEN + HIDDEN * CLASSES)
    k = math.ceil(SEQ / 4)
    adapter = 2 * BATCH * SEQ * 2 * HIDDEN * DIM
    count = ca.estimate_flops(model, batch_size=BATCH, sequence_length=SEQ)
    assert count.dense == LAYERS * bert_layer_flops(SEQ) + head
    assert count.total == LAYERS * (bert_layer_flops(k) + adapter) + head
    assert count.ratio == count.dense / count.total


def test_flops_are_those_of_the_counter_of_torch() -> None:
    """Torch knows all products of eager attention; ours knows the fused attention, too."""
    counts = []
    for attention in ("sdpa", "eager"):
        model, inputs = attached("bert", reduction_factor=3), TINY_MODELS["bert"].inputs()
        model.set_attn_implementation(attention)
        counts.append(ca.estimate_flops(model, inputs=inputs))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(**inputs)
    assert counts[0] == counts[1]
    assert counts[1].total == counter.get_total_flops()


def test_counting_flops_changes_nothing() -> None:
    model, inputs = attached("bert"), TINY_MODELS["bert"].inputs()
    model.train()
    with torch.no_grad():
        model.eval()
        before = model(**inputs).logits
        model.train()
        ca.estimate_flops(model, batch_size=1, sequence_length=8)
        assert model.training
        model.eval()
        assert torch.equal(model(**inputs).logits, before)


def test_counting_flops_leaves_every_module_in_its_own_mode() -> None:
    model = attached("bert").train()
    model.bert.encoder.layer[1].eval()
    modes = [module.training for module in model.modules()]
    ca.estimate_flops(model, batch_size=1, sequence_length=8)
    assert [module.training for module in model.modules()] == modes


def test_modes_come_back_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout()).train()
    model[0].eval()
    with pytest.raises(RuntimeError, match="shapes"):
        count_flops(model, {"input": torch.ones(2, 5)})
    assert [module.training for module in model.modules()] == [True, False, True]


def test_the_operations_of_any_module_can_be_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 5, bias=False))
    assert count_flops(model, {"input": torch.ones(2, 3)}) == 2 * 2 * (3 * 4 + 4 * 5)


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_flops_fall_with_the_reduction_factor(name: str) -> None:
    model, inputs = attached(name, reduction_factor=1), TINY_MODELS[name].inputs()
    totals = []
    for factor in (1, 2, 4):
        ca.set_reduction_factor(model, factor)
        totals.append(ca.estimate_flops(model, inputs=inputs).total)
    assert totals[0] > totals[1] > totals[2]


@pytest.mark.parametrize("name", ["bert", "t5", "vit", "whisper", "clip"])
def test_sizes_count_as_full_inputs_of_that_size_do(name: str) -> None:
    model, inputs = attached(name), TINY_MODELS[name].inputs()
    length = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
    expected = ca.estimate_flops(model, inputs=inputs)
    assert ca.estimate_flops(model, batch_size=2, sequence_length=length) == expected


def test_padding_costs_nothing_in_routed_layers() -> None:
    model, inputs = attached("bert", reduction_factor=4), TINY_MODELS["bert"].inputs()
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][:, 4:] = 0  # one token is left to choose
    count, full = (
        ca.estimate_flops(model, inputs=inputs),
        ca.estimate_flops(model, batch_size=2, sequence_length=inputs["input_ids"].shape[1]),
    )
    assert count.dense == full.dense
    assert count.total < full.total


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("bert", {"batch_size": 0, "sequence_length": 8}, "batch_size must be at least 1, got 0"),
        ("bert", {"batch_size": 1}, "sequence_length must be at least 1 .*got None"),
        ("vit", {"batch_size": 1, "sequence_length": 8}, "must be None for a 'vit' model, got 8"),
        ("bert", {}, "either batch_size or inputs"),
        ("wav2vec2", {"batch_size": 1}, r"Call estimate_flops\(model, inputs=batch\)"),
    ],
)
def test_impossible_sizes_are_refused(name, settings, message) -> None:
    with pytest.raises(ca.ConfigError, match=message):
        ca.estimate_flops(attached(name), **settings)


def test_parameter_counts_agree_with_the_closed_form() -> None:
    dense = TINY_MODELS["bert"].build("sdpa")
    size = sum(p.numel() for p in dense.parameters())
    norms = (2 * LAYERS + 1) * 2 * HIDDEN
    head = CLASSES * HIDDEN + CLASSES + HIDDEN * HIDDEN + HIDDEN  # classifier and pooler
    new = LAYERS * (2 * HIDDEN * DIM + HIDDEN)
    model = attached("bert")
    count = ca.count_parameters(model)
    assert count == ca.ParameterCount(new=new, trainable=new + norms + head, total=size + new)
    assert count.new_share == new / size
    ca.add_adapter(model, ca.ConditionalAdapterConfig(adapter_dim=2 * DIM), adapter_name="other")
    assert ca.count_parameters(model).new == LAYERS * (4 * HIDDEN * DIM + HIDDEN)


def test_recording_stops_with_its_context() -> None:
    model, inputs = attached("bert", reduction_factor=3), TINY_MODELS["bert"].inputs()
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    first = routing.layers[0]
    model(**inputs)
    assert routing.layers[0] is first


def test_layer_counts_count_the_layers_that_processed_each_token() -> None:
    model = attached("bert", reduction_factor=3, dense_layers=(1,))
    inputs = pad_text(TINY_MODELS["bert"].inputs(), "right")
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    expected = torch.zeros(2, 11, dtype=torch.int64)
    for decision in routing.layers:
        if decision is not None:
            for row in range(2):
                for slot, position in enumerate(decision.selected_indices[row]):
                    expected[row, position] += int(decision.is_selected[row, slot])
    assert torch.equal(routing.layer_counts(), expected)
    assert expected[:, 0].tolist() == [2, 2]  # CLS, in both routed layers
    assert expected[1, -4:].sum() == 0  # padding


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_dense_layers_process_all_but_padding_and_routed_ones_what_they_chose(side) -> None:
    tiny = TINY_MODELS["bert"]
    config = ca.ConditionalAdapterConfig(reduction_factor=3, dense_layers=(1,))
    model = ca.attach(tiny.build("sdpa"), config)
    inputs = tiny.inputs() if side is None else pad_text(tiny.inputs(), side)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**inputs)
    processed = routing.processed_tokens()
    batch, seq = inputs["input_ids"].shape
    assert processed.shape == (3, batch, seq)
    assert processed[[0, 2]].sum(0).equal(routing.layer_counts())
    for layer, decision in enumerate(routing.layers):
        for row in range(batch):
            valid = inputs["attention_mask"][row].tolist() if side else [1] * seq
            if decision is None:
                expected = {token for token in range(seq) if valid[token]}
            else:
                slots = zip(
                    decision.selected_indices[row].tolist(), decision.is_selected[row], strict=True
                )
                expected = {token for token, is_used in slots if is_used}
            assert set(processed[layer, row].nonzero().flatten().tolist()) == expected


def test_routing_of_a_dense_adapter_is_empty() -> None:
    model = attached("bert", reduction_factor=1)
    with torch.no_grad(), ca.record_routing(model) as routing:
        model(**TINY_MODELS["bert"].inputs())
    assert routing.layers == [None] * LAYERS
    assert not [n for n, p in adapter_parameters(model, "default") if p.grad is not None]


def test_candidates_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    candidates = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = time_interleaved(candidates, rounds=4, warmup=2)
    rounds = {"".join(calls[i : i + 2]) for i in range(0, len(calls), 2)}
    assert len(calls) == 12
    assert rounds == {"ab", "ba"}
    for timing in timings.values():
        assert len(timing.seconds) == 4
        assert 0 <= timing.quartiles[0] <= timing.median <= timing.quartiles[2]
    prepared: list[str] = []
    time_interleaved(candidates, prepare=prepared.append, rounds=3, warmup=0)
    assert prepared == calls[:6]
    assert Timing((1.0, 2.0, 4.0)).speed_up(over=Timing((3.0, 4.0, 16.0))) == 3.0
    with pytest.raises(ca.ConfigError, match=r"rounds must be at least 3 .*got 2"):
        time_interleaved(candidates, rounds=2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_pages_of_long_batches_are_kept_when_freed() -> None:
    # What a dense layer frees at 32 x 2048 tokens: pages that went back to the system would be
    # fetched anew in each layer, within the time of the dense model alone.
    code = """if True:
        import ctypes, resource
        from conditional_adapters.analysis.timing import keep_freed_memory

        assert keep_freed_memory()
        libc, size = ctypes.CDLL(None), 2**31 + 2**28
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]

        def use_pages():
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            pages = libc.malloc(size)
            libc.memset(pages, 1, size)
            libc.free(pages)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults

        print(use_pages(), use_pages())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert first > 1000  # pages may be huge ones
    assert second < first / 100
