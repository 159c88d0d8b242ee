"""DINOv2: the converted model against onnxruntime on the file it comes from."""

import sys

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import torch
from transformers import AutoModelForImageClassification, Dinov2Model

from conditional_adapters.errors import AssetError
from conditional_adapters.toolkit.assets import load_packaged_image_processor, load_packaged_model
from conditional_adapters.toolkit.assets._catalogue import verified_path
from conditional_adapters.toolkit.assets._dinov2 import onnx_to_state_dict

# Names in the graph: the output of each of the 12 layers, and of the last norm.
GRAPH_OUTPUTS = [f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in range(12)]
GRAPH_OUTPUTS += ["/backbone/layernorm/Add_1_output_0"]


@pytest.fixture(scope="module")
def model(needs):
    needs("dinov2")
    return load_packaged_model("dinov2")


@pytest.fixture(scope="module")
def original(model):
    """The file's own graph, made to return its hidden states too."""
    graph = onnx.load(verified_path("dinov2"))
    graph.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, GRAPH_OUTPUTS))
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_layer_agrees_with_onnxruntime(original, attention):
    model = load_packaged_model("dinov2", attn_implementation=attention)
    pixel_values = torch.randn(2, 3, 224, 224)
    expected = original.run(GRAPH_OUTPUTS, {"input_image": pixel_values.numpy()})
    with torch.no_grad():
        outputs = model(pixel_values, output_hidden_states=True)
    states = [*outputs.hidden_states[1:], outputs.last_hidden_state]
    assert len(states) == len(expected) == 13
    for name, state, reference in zip(GRAPH_OUTPUTS, states, expected, strict=True):
        # Measured: at most 3.4e-5, where values reach 18.
        assert np.abs(state.numpy() - reference).max() <= 1e-4, name


def test_every_parameter_comes_from_the_file(model):
    assert type(model) is Dinov2Model
    state_dict = onnx_to_state_dict(verified_path("dinov2"))
    torch.testing.assert_close(dict(model.state_dict()), state_dict, rtol=0, atol=0)
    assert not model.embeddings.mask_token.any()


def test_an_image_classifier_has_the_backbone_of_the_file(model):
    classifier = load_packaged_model("dinov2", AutoModelForImageClassification, num_labels=10)
    torch.testing.assert_close(
        dict(classifier.dinov2.state_dict()), dict(model.state_dict()), rtol=0, atol=0
    )
    # The class token and the mean of the patches.
    assert classifier.classifier.weight.shape == (10, 768)
    assert classifier.name_or_path == "packaged:dinov2"


def test_onnx_missing_is_an_error_with_the_command(needs, monkeypatch):
    needs("dinov2")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(AssetError, match=r'pip install "conditional-adapters\[assets\]"'):
        load_packaged_model("dinov2")


def test_the_image_processor_resizes_crops_and_normalises():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(pixels)
    # By hand: the shortest edge becomes 256, the centre of 224 x 224 stays.
    resized = picture.resize((341, 256), PIL.Image.Resampling.BICUBIC)
    left, top = (341 - 224) // 2, (256 - 224) // 2
    cropped = np.asarray(resized)[top : top + 224, left : left + 224] / 255
    expected = (cropped - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    processed = load_packaged_image_processor("dinov2")(picture, return_tensors="pt").pixel_values
    assert processed.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(processed[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_the_image_processor_accepts_grey_pictures():
    grey = PIL.Image.fromarray(np.full((28, 28), 128, dtype=np.uint8))
    processed = load_packaged_image_processor("dinov2")(grey, return_tensors="pt").pixel_values
    assert processed.shape == (1, 3, 224, 224)


def test_other_image_processors_are_refused():
    with pytest.raises(AssetError, match=r"image processor 'minilm'. Known names: dinov2"):
        load_packaged_image_processor("minilm")
