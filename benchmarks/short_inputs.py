"""Latency of short inputs in small batches, where conditional adapters gain least.

A BERT of MiniLM's size with random weights runs dense with adapters and conditional at several
shapes. All r of a shape take turns in every round, and ratios are taken within a round. Below some
size router, gathering and adapter cost more than the skipped tokens save.
"""

import torch
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from benchmarks._report import Report, describe_run, make_parser, parse, write_report
from conditional_adapters.analysis.timing import time_interleaved

SHAPES = ((1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (8, 16), (8, 32), (8, 64))
FACTORS = (1, 2, 4, 8)  # 1: dense with adapters
CONFIG = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}


def measure(model: BertModel, rounds: int) -> Report:
    """Measure every shape.

    Args:
        model: A conditional encoder.
        rounds: Measured runs of each r.

    Returns:
        Latency and speed-up over dense adapters, by shape and r.
    """
    names = {_name(factor): factor for factor in FACTORS}
    results: Report = {}
    for batch, tokens in SHAPES:
        inputs = {"input_ids": torch.randint(1000, (batch, tokens))}

        def run(inputs: dict[str, torch.Tensor] = inputs) -> None:
            with torch.inference_mode():
                model(**inputs)

        timings = time_interleaved(
            dict.fromkeys(names, run),
            prepare=lambda name: ca.set_reduction_factor(model, names[name]),
            rounds=rounds,
        )
        results[f"{batch} x {tokens}"] = {
            name: {
                "milliseconds": round(timing.median * 1e3, 2),
                "times_faster_than_dense": round(timing.speed_up(over=timings[_name(1)]), 3),
            }
            for name, timing in timings.items()
        }
    return results


def _name(factor: float) -> str:
    return "dense + adapter" if factor == 1 else f"conditional, r = {factor:g}"


def main() -> None:
    """Measure, print and write the result."""
    parser = make_parser(__doc__, rounds=51, output="short_inputs.json")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder")
    arguments = parse(parser)
    config = CONFIG | {"num_hidden_layers": arguments.layers, "vocab_size": 1000}
    run = describe_run("benchmarks.short_inputs", "transformers") | {
        "config": config,
        "adapter_dim": ca.ConditionalAdapterConfig().adapter_dim,
        "rounds": arguments.rounds,
    }
    model = ca.attach(BertModel(BertConfig(**config)).eval())
    write_report(arguments.output, run, measure(model, arguments.rounds))


if __name__ == "__main__":
    main()
