"""The pretrained adapters that come with the library."""

import numpy as np
import pytest
import torch

import conditional_adapters as ca
from conditional_adapters.checkpoint.save_load import attach_pretrained
from conditional_adapters.toolkit.assets import (
    bbc_news,
    fashion_mnist,
    find_adapter,
    load_packaged_feature_extractor,
    load_packaged_image_processor,
    load_packaged_model,
    load_packaged_tokenizer,
    packaged_adapter_names,
    telephone_prompts,
)
from conditional_adapters.toolkit.tasks._audio import decode_audio
from conditional_adapters.training.objectives import encoder_states, relative_error

BASES = {"dinov2-elastic": "dinov2", "minilm-elastic": "minilm", "whisper-elastic": "whisper"}


def real_texts(needs) -> dict[str, torch.Tensor]:
    needs("bbc_news")
    texts = [article.text for article in bbc_news()[::300]]
    tokenizer = load_packaged_tokenizer("minilm")
    return tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")


def real_images(needs) -> dict[str, torch.Tensor]:
    needs("fashion_mnist/test/images")
    pictures = fashion_mnist("test")[0][:4]
    images = [np.repeat(picture[..., None], 3, axis=-1) for picture in pictures]
    return load_packaged_image_processor("dinov2")(images, return_tensors="pt")


def real_recordings(needs) -> dict[str, torch.Tensor]:
    for asset in ("prompts/recordings", "prompts/transcripts"):
        needs(asset)
    cells = [{"bytes": prompt.audio, "path": None} for prompt in telephone_prompts()[100:104]]
    extractor = load_packaged_feature_extractor("whisper")
    samples = [decode_audio(cell, extractor.sampling_rate) for cell in cells]
    return extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")


INPUTS = {"dinov2": real_images, "minilm": real_texts, "whisper": real_recordings}


def test_every_adapter_has_a_base_model_here() -> None:
    assert packaged_adapter_names() == sorted(BASES)


@pytest.mark.parametrize("name", BASES)
def test_an_adapter_is_small_elastic_and_without_a_task(name: str) -> None:
    folder = find_adapter(f"packaged:{name}")
    config = ca.read_adapter_config(folder)
    assert len(config["reduction_factor"]) > 1
    assert config["modules_to_save"] == []
    assert (folder / "adapter_model.safetensors").stat().st_size < 5e6


def test_a_path_is_taken_as_it_is(tmp_path) -> None:
    assert find_adapter(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["packaged:none", "packaged:../_data", "packaged:"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ca.ConfigError, match="packaged:minilm-elastic"):
        find_adapter(name)


@pytest.mark.parametrize("name", BASES)
def test_it_comes_much_closer_to_the_dense_model_than_a_fresh_adapter(needs, name: str) -> None:
    needs(BASES[name])
    batch = dict(INPUTS[BASES[name]](needs))
    mask = batch["attention_mask"].bool() if "attention_mask" in batch else None
    dense = load_packaged_model(BASES[name])
    fresh = ca.attach(load_packaged_model(BASES[name]))
    trained = attach_pretrained(
        load_packaged_model(BASES[name]), find_adapter(f"packaged:{name}")
    ).eval()
    with torch.inference_mode():
        target = encoder_states(dense, batch)[1]

        def error(model) -> float:
            return float(relative_error(encoder_states(model, batch)[1], target, mask))

        errors = []
        trained_factors = ca.read_adapter_config(find_adapter(f"packaged:{name}"))[
            "reduction_factor"
        ]
        for factor in sorted(trained_factors)[-3:]:
            ca.set_reduction_factor(fresh, factor)
            ca.set_reduction_factor(trained, factor)
            errors.append(error(trained))
            assert errors[-1] < 0.7 * error(fresh), factor
    assert errors == sorted(errors)  # more tokens, less error
