"""Position biases made of their distances, against the biases that the models make of all pairs."""

import pytest
import torch
from transformers import MT5Config, T5Config, T5EncoderModel
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

import conditional_adapters as ca
from conditional_adapters.architectures._position_bias import bias_of_distances

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
    bias = bias_of_distances(attention.compute_bias, seq)
    assert torch.equal(bias, attention.compute_bias(seq, seq))
    assert bias.is_contiguous()


def test_the_gradient_of_the_bias_is_that_of_all_pairs() -> None:
    attention = ATTENTIONS["t5"]().double()
    (table,) = attention.relative_attention_bias.parameters()
    weights = torch.randn(1, 3, 11, 11, dtype=torch.float64)
    expected = torch.autograd.grad((attention.compute_bias(11, 11) * weights).sum(), table)
    bias = bias_of_distances(attention.compute_bias, 11)
    torch.testing.assert_close(torch.autograd.grad((bias * weights).sum(), table), expected)


@pytest.mark.parametrize("dense_layers", [(), (0,)])
@pytest.mark.parametrize("reduction_factor", [1, 3])
def test_no_layer_of_t5_has_to_copy_the_bias(dense_layers, reduction_factor) -> None:
    model = T5EncoderModel(T5Config(**T5_SIZES, d_ff=16, num_layers=3, vocab_size=50)).eval()
    ca.attach(
        model,
        ca.ConditionalAdapterConfig(
            reduction_factor=reduction_factor, adapter_dim=4, dense_layers=dense_layers
        ),
    )
    seen = []
    for module in model.modules():
        if isinstance(module, T5Attention):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(kwargs["position_bias"]), with_kwargs=True
            )
    with torch.no_grad():
        model(input_ids=torch.randint(50, (2, 9)))
    assert len(seen) == 3
    assert all(bias is not None and bias.is_contiguous() for bias in seen)
