"""A model times itself beside its base, honestly, and is left as it was."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import conditional_adapters as ca
from conditional_adapters.analysis import speed
from conditional_adapters.model.attachment import get_attachment
from tests.helpers.tiny_models import TINY_MODELS


def test_a_model_says_how_much_faster_it_is_than_its_base() -> None:
    config = BertConfig(
        hidden_size=128, num_attention_heads=2, intermediate_size=512, num_hidden_layers=3,
        vocab_size=50,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=8, adapter_dim=8))
    batch = {"input_ids": torch.full((8, 256), 7), "labels": torch.zeros(8, dtype=torch.long)}
    found = ca.measure_speed(model, batch, rounds=5)
    assert found.speed_up > 1.5  # 8 times fewer tokens; far more on a quiet machine
    assert found.conditional.median < found.dense.median
    assert str(found).startswith(f"r = 8: {1000 * found.conditional.median:.2f} ms, dense ")
    assert f", {found.speed_up:.2f}x (" in str(found)
    assert "in half of 5 rounds); 8 x 256, cpu, 1 threads, torch.float32" in str(found).replace(
        f"{torch.get_num_threads()} threads", "1 threads"
    )
    ca.set_reduction_factor(model, 2)
    assert ca.measure_speed(model, batch, rounds=3).reduction_factor == 2


@pytest.mark.parametrize("name", ["bert", "t5", "vit", "whisper"])
def test_candidates_are_what_they_are_called_and_the_model_is_left_alone(name, monkeypatch) -> None:
    tiny = TINY_MODELS[name]
    model = ca.attach(tiny.build(tiny.attention), ca.ConditionalAdapterConfig(reduction_factor=3))
    ca.add_adapter(model, ca.ConditionalAdapterConfig(reduction_factor=2), adapter_name="other")
    ca.set_adapter(model, "default")
    model.train()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    seen, routed = {}, []
    for path, module in model.named_modules():
        if path.endswith("default.router"):
            module.register_forward_hook(lambda *_: routed.append(1))

    def watch(candidates, *, prepare, **settings):
        for candidate, run in candidates.items():
            prepare(candidate)
            routed.clear()
            run()
            seen[candidate] = len(routed)
            assert not model.training
        return original(candidates, prepare=prepare, **settings)

    original = speed.time_interleaved
    monkeypatch.setattr(speed, "time_interleaved", watch)
    assert ca.measure_speed(model, tiny.inputs(), rounds=3).reduction_factor == 3
    assert seen["dense"] == 0
    assert seen["conditional"] > 0
    assert model.training
    assert get_attachment(model).active == "default"
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable


def test_the_active_adapter_is_back_after_a_failure() -> None:
    model = ca.attach(TINY_MODELS["bert"].build("sdpa"))
    with pytest.raises(ValueError, match="input_ids"):
        ca.measure_speed(model, {"attention_mask": torch.ones(1, 3)})
    assert get_attachment(model).active == "default"
    with pytest.raises(ca.ConfigError, match=r"rounds must be at least 3 .* got 2"):
        ca.measure_speed(model, TINY_MODELS["bert"].inputs(), rounds=2)
    ca.set_adapter(model, None)
    with pytest.raises(ca.AttachmentError, match="no adapter is active"):
        ca.measure_speed(model, TINY_MODELS["bert"].inputs())
