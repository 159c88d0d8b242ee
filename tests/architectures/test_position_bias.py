"""Position biases made of their distances, against the biases that the models make of all pairs."""

import pytest
import torch
from transformers import MT5Config, T5Config, T5EncoderModel
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

import conditional_adapters as ca
from conditional_adapters.architectures._position_bias import bias_of_distances
from conditional_adapters.ops import expand_relative_bias
from tests.helpers.tiny_models import TINY_MODELS

T5_SIZES = {"d_model": 12, "d_kv": 4, "num_heads": 3, "relative_attention_max_distance": 9}
ATTENTIONS = {
    "t5": lambda: T5Attention(T5Config(**T5_SIZES), has_relative_attention_bias=True),
    "mt5": lambda: MT5Attention(MT5Config(**T5_SIZES), has_relative_attention_bias=True),
    "wavlm": lambda: WavLMAttention(12, 3, max_distance=9, num_buckets=20),
}


@pytest.mark.parametrize("seq", [1, 2, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_distances_make_the_bias_of_all_pairs(name, dtype, seq) -> None:
    attention = ATTENTIONS[name]().to(dtype)
    distances = bias_of_distances(attention.compute_bias, seq)
    assert distances.shape[-1] == 2 * seq - 1
    assert torch.equal(expand_relative_bias(distances), attention.compute_bias(seq, seq))


def test_the_gradient_of_the_bias_is_that_of_all_pairs() -> None:
    attention = ATTENTIONS["t5"]().double()
    (table,) = attention.relative_attention_bias.parameters()
    weights = torch.randn(1, 3, 11, 11, dtype=torch.float64)
    expected = torch.autograd.grad((attention.compute_bias(11, 11) * weights).sum(), table)
    bias = expand_relative_bias(bias_of_distances(attention.compute_bias, 11))
    torch.testing.assert_close(torch.autograd.grad((bias * weights).sum(), table), expected)


def make_t5(**options) -> T5EncoderModel:
    model = T5EncoderModel(T5Config(**T5_SIZES, d_ff=16, num_layers=4, vocab_size=50)).eval()
    return ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=4, **options))


def biases_in(model: torch.nn.Module) -> list[torch.Tensor]:
    """Collect the biases that the attention modules get in a forward pass."""
    seen = []
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["position_bias"]), with_kwargs=True
        )
        for module in model.modules()
        if isinstance(module, T5Attention)
    ]
    with torch.no_grad():
        model(input_ids=torch.arange(18).view(2, 9))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("dense_layers", [(), (0,), (1, 2)])
@pytest.mark.parametrize("reduction_factor", [1, 3])
def test_no_layer_of_t5_has_to_copy_the_bias(dense_layers, reduction_factor) -> None:
    model = make_t5(reduction_factor=reduction_factor, dense_layers=dense_layers)
    seen = biases_in(model)
    assert len(seen) == 4
    assert all(bias is not None and bias.is_contiguous() for bias in seen)


@pytest.mark.parametrize("attention_mode", ["k_to_k", "k_to_all"])
@pytest.mark.parametrize("dense_layers", [(), (0,), (1, 2), (3,)])
def test_every_layer_of_t5_gets_the_bias_of_its_tokens(dense_layers, attention_mode) -> None:
    model = make_t5(reduction_factor=3, dense_layers=dense_layers, attention_mode=attention_mode)
    whole = model.encoder.block[0].layer[0].SelfAttention.compute_bias(9, 9)
    with ca.record_routing(model) as routing:
        biases = biases_in(model)
    assert [decision is None for decision in routing.layers] == [
        layer in dense_layers for layer in range(4)
    ]
    for bias, decision in zip(biases, routing.layers, strict=True):
        if decision is None:
            assert torch.equal(bias, whole)
            continue
        expected = [
            whole[0, :, row] if attention_mode == "k_to_all" else whole[0, :, row][:, :, row]
            for row in decision.selected_indices
        ]
        assert torch.equal(bias, torch.stack(expected))


@pytest.mark.parametrize("dense_layers", [(0,), (1,), (0, 1)])
def test_dense_layers_of_wavlm_get_the_bias_of_all_pairs(dense_layers) -> None:
    tiny = TINY_MODELS["wavlm"]
    model = tiny.build(tiny.attention)
    config = ca.ConditionalAdapterConfig(
        reduction_factor=3, adapter_dim=4, dense_layers=dense_layers
    )
    ca.attach(model, config)
    attentions = [m for m in model.modules() if isinstance(m, WavLMAttention)]
    seen = []
    for attention in attentions:
        attention.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0], kwargs["position_bias"])),
            with_kwargs=True,
        )
    with torch.no_grad():
        model(**tiny.inputs())
    assert len(seen) == len(attentions)
    for layer in dense_layers:
        states, bias = seen[layer]
        if layer > 0:  # the first makes its own
            batch, seq, _ = states.shape
            expected = attentions[0].compute_bias(seq, seq).repeat(batch, 1, 1)
            assert torch.equal(bias, expected)
