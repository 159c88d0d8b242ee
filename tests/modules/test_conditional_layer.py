"""The conditional layer is short to read, and its output can be hooked."""

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from conditional_adapters.model.attachment import conditional_layers
from conditional_adapters.modules import conditional_layer

PACKAGE = os.path.dirname(ca.__file__)


def two_layer_bert() -> BertModel:
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=100,
    )
    return ca.attach(BertModel(config).eval(), ca.ConditionalAdapterConfig(reduction_factor=4))


@contextmanager
def recorded_calls() -> Iterator[list[tuple[str, str]]]:
    """Record file and qualified name of every function of the package that is entered."""
    calls: list[tuple[str, str]] = []

    def record(frame, event, argument) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            calls.append((file, frame.f_code.co_qualname))

    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.compile  # the shape checks would be calls as well
@pytest.mark.parametrize("has_mask", [False, True])
def test_a_routed_forward_is_short_to_follow(has_mask) -> None:
    model, inputs = two_layer_bert(), {"input_ids": torch.randint(100, (2, 16))}
    if has_mask:
        inputs["attention_mask"] = torch.ones(2, 16, dtype=torch.long)
    with torch.no_grad():
        model(**inputs)
        with recorded_calls() as calls:
            model(**inputs)
    files = [file for file, _ in calls]
    assert len(set(files)) <= 9
    assert len(set(calls)) <= 35
    assert len(calls) <= 70
    assert sum(a != b for a, b in pairwise(files)) <= 40


def test_forward_and_what_it_calls_in_its_file_are_short_to_read() -> None:
    text = Path(conditional_layer.__file__).read_text()
    tree = ast.parse(text)
    (layer,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    functions = {
        node.name: node for node in [*layer.body, *tree.body] if isinstance(node, ast.FunctionDef)
    }
    reached, waiting = set(), ["forward"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        names = {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(functions[name])
            if isinstance(node, ast.Attribute | ast.Name)
        }
        waiting += (names & functions.keys()) - reached
    assert {"_coda_run", "_coda_process"} <= reached
    assert sum(len(code_lines(functions[name], text)) for name in reached) <= 120


def code_lines(function: ast.FunctionDef, text: str) -> list[str]:
    """The lines of a function without docstring, comments and blank lines."""
    start = function.body[ast.get_docstring(function) is not None].lineno
    lines = text.splitlines()
    own = lines[function.lineno - 1 : function.body[0].lineno - 1]
    own += lines[start - 1 : function.end_lineno]
    return [line for line in own if line.strip() and not line.strip().startswith("#")]


def test_a_hook_on_the_gradient_of_a_layers_output_is_called() -> None:
    # As Grad-CAM and FSDP2 register it; a stale view as output crashed the process.
    model = two_layer_bert()
    gradients: list[Tensor] = []

    def watch(layer: nn.Module, args: object, output: Tensor) -> None:
        output.register_hook(gradients.append)

    for layer in conditional_layers(model):
        layer.register_forward_hook(watch)
    states = model(torch.randint(100, (2, 16))).last_hidden_state
    states.square().sum().backward()
    assert [gradient.shape for gradient in gradients] == [states.shape] * 2
    torch.testing.assert_close(gradients[0], 2 * states.detach())
