"""Latency of an encoder over the length of its input.

A BERT of MiniLM's size with random weights reads one text at a time: dense, with dense adapters,
and conditional at several r. All candidates of a length take turns in every round, and ratios are
taken within a round.
"""

from collections.abc import Sequence

import torch
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from benchmarks._report import Report, describe_run, make_parser, parse, write_report
from conditional_adapters.analysis import estimate_flops
from conditional_adapters.analysis.timing import time_interleaved

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
DENSE, REFERENCE = "dense", "dense + adapter"
CANDIDATES = {DENSE: None, REFERENCE: 1, "r = 2": 2, "r = 4": 4, "r = 8": 8}
CONFIG = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": max(LENGTHS),
    "vocab_size": 1000,
}


def measure(model: BertModel, lengths: Sequence[int], rounds: int) -> list[Report]:
    """Measure every length.

    Args:
        model: A conditional encoder.
        lengths: Numbers of tokens.
        rounds: Measured runs of each candidate.

    Returns:
        One row for each length and candidate: latency, floating-point operations, speed-up over
        dense adapters and FLOP ratio.
    """
    rows: list[Report] = []
    for length in lengths:
        inputs = {"input_ids": torch.randint(CONFIG["vocab_size"], (1, length))}

        def run(inputs: dict[str, torch.Tensor] = inputs) -> None:
            with torch.inference_mode():
                model(**inputs)

        timings = time_interleaved(
            dict.fromkeys(CANDIDATES, run),
            prepare=lambda name: _prepare(model, name),
            rounds=rounds,
            warmup=1,
        )
        flops = {}
        for name in CANDIDATES:
            _prepare(model, REFERENCE if name == DENSE else name)
            count = estimate_flops(model, inputs=inputs)
            flops[name] = count.dense if name == DENSE else count.total
        rows += [
            {
                "tokens": length,
                "encoder": name,
                "milliseconds": round(timing.median * 1e3, 2),
                "flops": flops[name],
                "times_faster": round(timing.speed_up(over=timings[REFERENCE]), 3),
                "flop_ratio": round(flops[REFERENCE] / flops[name], 3),
            }
            for name, timing in timings.items()
        ]
    return rows


def _prepare(model: BertModel, name: str) -> None:
    factor = CANDIDATES[name]
    ca.set_adapter(model, None if factor is None else "default")
    if factor is not None:
        ca.set_reduction_factor(model, factor)


def main() -> None:
    """Measure, print and write the result."""
    parser = make_parser(__doc__, rounds=7, threads=2, output="lengths.json")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="numbers of tokens")
    arguments = parse(parser)
    config = CONFIG | {"num_hidden_layers": arguments.layers}
    run = describe_run("benchmarks.lengths", "transformers") | {
        "config": config,
        "adapter_dim": ca.ConditionalAdapterConfig().adapter_dim,
        "rounds": arguments.rounds,
    }
    model = ca.attach(BertModel(BertConfig(**config), add_pooling_layer=False).eval())
    rows = measure(model, arguments.lengths, arguments.rounds)
    write_report(arguments.output, run, {"rows": rows})


if __name__ == "__main__":
    main()
