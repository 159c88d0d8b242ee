"""Latency of alternatives to conditional adapters, for an encoder of BERT-base's size.

Random weights, float32. All take turns in every round, in random order and with a pause before
each, and ratios to the plain encoder are taken within a round. "Packed" means prepacked weights
(`prepack_weights`). `--compile` adds compiled candidates, prepacked or not, and torchao's 8 bits.
The quality of the alternatives is not measured.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

import conditional_adapters as ca
from benchmarks._report import Report, describe_run, make_parser, milliseconds, parse, write_report
from conditional_adapters.analysis.timing import compile_module, time_interleaved
from conditional_adapters.integrations.onnx import export_onnx, open_session, quantize_onnx

ADAPTER_DIM, LORA_RANK, VOCABULARY = 64, 8, 30522
SHAPES = ((8, 512), (1, 128))
PLAIN = "plain"
PACKED = (
    PLAIN, "parallel adapter", "half the layers", "conditional, r = 4", "conditional, r = 8",
)  # fmt: skip
# Threads of ONNX Runtime and OpenMP keep spinning for a while after a run, on the cores that the
# next candidate needs.
PAUSE = 0.25  # seconds before each run
Run = Callable[[], object]


def make_bert(num_layers: int) -> BertModel:
    """A BERT of BERT-base's width in evaluation mode."""
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=num_layers)
    return BertModel(config, add_pooling_layer=False).eval()


def make_conditional(num_layers: int, factor: float) -> BertModel:
    """The same model with adapters, conditional if the factor is above 1."""
    config = ca.ConditionalAdapterConfig(reduction_factor=factor, adapter_dim=ADAPTER_DIM)
    return ca.attach(make_bert(num_layers), config)


def make_lora(num_layers: int, *, merged: bool) -> nn.Module:
    """The same model with LoRA in queries and values, PEFT's default."""
    config = LoraConfig(r=LORA_RANK, target_modules=["query", "value"])
    model = get_peft_model(make_bert(num_layers), config)
    return model.merge_and_unload().eval() if merged else model.eval()


def make_torch_candidates(num_layers: int) -> dict[str, nn.Module]:
    """The candidates in PyTorch."""
    modern = ModernBertConfig(num_hidden_layers=max(22 * num_layers // 12, 1))
    models = {
        PLAIN: make_bert(num_layers),
        "LoRA, not merged": make_lora(num_layers, merged=False),
        "LoRA, merged": make_lora(num_layers, merged=True),
        "parallel adapter": make_conditional(num_layers, 1),
        "half the layers": make_bert(num_layers // 2),
        "ModernBERT-base": ModernBertModel(modern).eval(),
        "conditional, r = 4": make_conditional(num_layers, 4),
        "conditional, r = 8": make_conditional(num_layers, 8),
    }
    packed = {f"{name}, packed": pack(models[name]) for name in PACKED}
    return models | packed


def pack(model: nn.Module) -> nn.Module:
    """A copy with prepacked weights."""
    copied = copy.deepcopy(model)
    ca.prepack_weights(copied)
    return copied


def make_compiled_candidates(models: dict[str, nn.Module]) -> dict[str, Callable[..., object]]:
    """Compiled candidates, some in torchao's 8 bits, which are faster only if compiled.

    Resets the compiler, so that each shape has its own graphs.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch._dynamo.reset()
    found: dict[str, Callable[..., object]] = {}
    for name in (PLAIN, "parallel adapter", "conditional, r = 4"):
        for kind in (name, f"{name}, packed"):
            found[f"{kind}, compiled"] = compile_module(models[kind])
    for name in ("parallel adapter", "conditional, r = 4"):
        model = copy.deepcopy(models[name])
        quantize_(model.encoder, Int8DynamicActivationInt8WeightConfig())
        found[f"{name}, torchao int8, compiled"] = compile_module(model)
    return found


def make_onnx_candidates(
    num_layers: int, folder: Path, inputs: dict[str, Tensor], num_threads: int
) -> dict[str, Run]:
    """The candidates in ONNX Runtime, in float32 and in 8 bits."""
    arrays = {name: value.numpy() for name, value in inputs.items()}
    runs: dict[str, Run] = {}
    for name, factor in (("parallel adapter", 1), ("conditional, r = 4", 4)):
        model = make_conditional(num_layers, factor)
        full = export_onnx(model, folder / f"{factor}.onnx", output="last_hidden_state")
        eight = quantize_onnx(full, folder / f"{factor}.int8.onnx")
        for kind, path in (("ONNX", full), ("ONNX, int8", eight)):
            session = open_session(path, num_threads=num_threads)
            runs[f"{name}, {kind}"] = lambda session=session: session.run(None, arrays)
    return runs


def measure(
    num_layers: int,
    num_tokens: int | None,
    num_rounds: int,
    num_threads: int,
    *,
    compiled: bool = False,
) -> Report:
    """Latency of all candidates, by shape."""
    models = make_torch_candidates(num_layers)
    report: Report = {}
    for batch, tokens in SHAPES:
        candidates: dict[str, Callable[..., object]] = dict(models)
        if compiled:
            candidates |= make_compiled_candidates(models)
        inputs = {
            "input_ids": torch.randint(VOCABULARY, (batch, num_tokens or tokens)),
            "attention_mask": torch.ones(batch, num_tokens or tokens, dtype=torch.int64),
        }

        def forward(model: Callable[..., object], inputs: dict[str, Tensor] = inputs) -> None:
            with torch.inference_mode():
                model(**inputs)

        runs: dict[str, Run] = {
            name: lambda model=model, forward=forward: forward(model)
            for name, model in candidates.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            runs |= make_onnx_candidates(num_layers, Path(folder), inputs, num_threads)
            times = time_interleaved(
                runs, prepare=lambda _: time.sleep(PAUSE), rounds=num_rounds, warmup=1
            )
        report[f"{batch} x {tokens}"] = {
            name: {
                "milliseconds": milliseconds(timing, digits=1),
                "times_faster_than_plain": round(timing.speed_up(times[PLAIN]), 3),
            }
            for name, timing in sorted(times.items(), key=lambda item: item[1].median)
        }
    return report


def main() -> None:
    """Measure, print and write the result."""
    threads = torch.get_num_threads()
    parser = make_parser(__doc__, rounds=5, threads=threads, output="peers.json")
    parser.add_argument("--layers", type=int, default=12, help="layers of the encoder")
    parser.add_argument("--tokens", type=int, help="instead of 512 and 128")
    parser.add_argument("--compile", action="store_true", help="add compiled candidates (minutes)")
    arguments = parse(parser)
    run = describe_run("benchmarks.peers", "transformers") | {
        "dtype": "float32",
        "layers": arguments.layers,
        "adapter_dim": ADAPTER_DIM,
        "lora_rank": LORA_RANK,
        "rounds": arguments.rounds,
    }
    results = measure(
        arguments.layers,
        arguments.tokens,
        arguments.rounds,
        arguments.threads,
        compiled=arguments.compile,
    )
    write_report(arguments.output, run, results)


if __name__ == "__main__":
    main()
