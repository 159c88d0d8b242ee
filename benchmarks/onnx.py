"""Latency of a conditional encoder in ONNX Runtime, in float32 and in 8 bits.

A BERT of MiniLM's size with random weights is exported dense with adapters and conditional; every
file is also quantised to 8 bits. All take turns in every round, and ratios are taken within a
round. The outputs of each file are compared with PyTorch.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from benchmarks._report import describe_run, make_parser, milliseconds, parse, write_report
from conditional_adapters.analysis.timing import Timing, time_interleaved
from conditional_adapters.integrations.onnx import export_onnx, open_session, quantize_onnx

BATCH, TOKENS, ADAPTER_DIM = 8, 256, 64
CONFIG = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 1000,
}
DENSE = "dense + adapter"
FACTORS = {DENSE: 1} | {f"conditional, r = {r}": r for r in (2, 4, 8)}
TYPES = ("float32", "int8")

Results = dict[str, dict[str, dict[str, object]]]


def export_all(
    model: BertModel, inputs: dict[str, Tensor], folder: Path
) -> Iterator[tuple[tuple[str, str], Path, Tensor]]:
    """Yield a name, a file and the outputs of PyTorch, for each factor and type."""
    for name, factor in FACTORS.items():
        ca.set_reduction_factor(model, factor)
        with torch.inference_mode():
            expected = model(**inputs).last_hidden_state
        full = export_onnx(model, folder / f"{factor}.onnx", output="last_hidden_state")
        yield (name, "float32"), full, expected
        yield (name, "int8"), quantize_onnx(full, folder / f"{factor}.int8.onnx"), expected


def measure(config: dict[str, int], num_rounds: int, num_tokens: int, num_threads: int) -> Results:
    """Latency and differences of all files, by factor and type."""
    model = BertModel(BertConfig(**config)).eval()
    ca.attach(model, ca.ConditionalAdapterConfig(adapter_dim=ADAPTER_DIM))
    inputs = {
        "input_ids": torch.randint(CONFIG["vocab_size"], (BATCH, num_tokens)),
        "attention_mask": torch.ones(BATCH, num_tokens, dtype=torch.int64),
    }
    arrays = {name: value.numpy() for name, value in inputs.items()}
    runs, differences, sizes = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for key, path, expected in export_all(model, inputs, Path(folder)):
            session = open_session(path, num_threads=num_threads)
            runs[key] = lambda session=session: session.run(None, arrays)
            (found,) = runs[key]()
            differences[key] = float((torch.from_numpy(found) - expected).abs().mean())
            sizes[key] = path.stat().st_size
    times = time_interleaved(runs, rounds=num_rounds)
    return {
        name: {
            dtype: {
                "megabytes": round(sizes[name, dtype] / 1e6, 1),
                "mean_difference_from_torch": float(f"{differences[name, dtype]:.2g}"),
                **_summarise((name, dtype), times),
            }
            for dtype in TYPES
        }
        for name in FACTORS
    }


def _summarise(key: tuple[str, str], times: dict[tuple[str, str], Timing]) -> dict[str, object]:
    dense, full = times[DENSE, key[1]], times[DENSE, "float32"]
    return {
        "milliseconds": milliseconds(times[key]),
        "times_faster_than_dense": round(times[key].speed_up(dense), 3),
        "times_faster_than_dense_float32": round(times[key].speed_up(full), 3),
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = make_parser(__doc__, rounds=15, output="onnx.json")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens per sequence")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder")
    arguments = parse(parser)
    config = CONFIG | {"num_hidden_layers": arguments.layers}
    run = describe_run("benchmarks.onnx", "onnxruntime") | {
        "config": config,
        "batch_size": BATCH,
        "tokens": arguments.tokens,
        "adapter_dim": ADAPTER_DIM,
        "rounds": arguments.rounds,
    }
    results = measure(config, arguments.rounds, arguments.tokens, arguments.threads)
    write_report(arguments.output, run, results)


if __name__ == "__main__":
    main()
