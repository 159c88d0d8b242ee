"""Overhead of routing in a forward pass: scores, selection, gathering and adding back.

The arguments of every such call are recorded in one forward pass; then the calls of each part are
repeated alone, for all layers, in turns with the whole forward pass. A profiler in the running
model would mislead: it charges page faults of fresh memory to the operator that comes first. Each
call keeps its own tensors, so they are read from memory as in the model.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from benchmarks._report import Report, describe_run, make_parser, parse, write_report
from conditional_adapters.analysis.timing import time_interleaved
from conditional_adapters.modules import Router, conditional_layer
from conditional_adapters.ops import light_branch

WHOLE = "forward pass"
_LIGHT_BRANCH = sys.modules[light_branch.__module__]
# The functions of each part, in the order of a layer.
PIECES: dict[str, tuple[Any, str]] = {
    "scores of the router": (_LIGHT_BRANCH, "score_tokens"),
    "choice and weights": (Router, "forward"),
    "gathering tokens": (conditional_layer, "gather_tokens"),
    "gathering masks": (conditional_layer, "gather_arguments"),
    "weighing and adding back": (conditional_layer, "add_weighted_update_"),
}
SIZES = {
    "BERT-base": {},
    "MiniLM": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}
Call = Callable[[], object]


@contextmanager
def recorded(owner: Any, name: str, calls: list[Call]) -> Iterator[None]:  # noqa: ANN401
    """Record each call of a function inside the context, to repeat it."""
    function = getattr(owner, name)

    def note(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        # Arguments that are changed in place are copied before.
        kept = tuple(_copy(a) if name.endswith("_") and i == 0 else a for i, a in enumerate(args))
        calls.append(lambda: function(*kept, **kwargs))
        return function(*args, **kwargs)

    with patch.object(owner, name, note):
        yield


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def pieces_of(model: BertModel, inputs: dict[str, Tensor]) -> dict[str, list[Call]]:
    """The calls of each part, layer by layer, from one forward pass per part."""
    calls: dict[str, list[Call]] = {piece: [] for piece in PIECES}
    for piece, (owner, name) in PIECES.items():
        with recorded(owner, name, calls[piece]), torch.inference_mode():
            model(**inputs)
    return calls


def measure(model: BertModel, inputs: dict[str, Tensor], rounds: int) -> Report:
    """Latency of the forward pass, and latency and share of each part."""
    pieces = pieces_of(model, inputs)

    def run(calls: list[Call]) -> None:
        with torch.inference_mode():
            for call in calls:
                call()

    times = time_interleaved(
        {
            WHOLE: lambda: run([lambda: model(**inputs)]),
            **{name: lambda calls=calls: run(calls) for name, calls in pieces.items()},
            "all of routing": lambda: run([call for calls in pieces.values() for call in calls]),
        },
        rounds=rounds,
        warmup=2,
    )
    return {
        name: {
            "milliseconds": round(1e3 * timing.median, 3),
            "share_of_forward": round(1 / timing.speed_up(over=times[WHOLE]), 4),
        }
        for name, timing in times.items()
    }


def main() -> None:
    """Measure, print and write the result."""
    threads = torch.get_num_threads()
    parser = make_parser(__doc__, rounds=11, threads=threads, output="routing_overhead.json")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--layers", type=int, help="number of layers")
    parser.add_argument("--batch", type=int, default=8, help="batch size")
    parser.add_argument("--tokens", type=int, default=512, help="sequence length")
    parser.add_argument("--factor", type=float, default=4, help="r")
    arguments = parse(parser)
    run = describe_run("benchmarks.routing_overhead", "transformers") | {
        "rounds": arguments.rounds,
        "batch_size": arguments.batch,
        "tokens": arguments.tokens,
        "reduction_factor": arguments.factor,
    }
    results: Report = {}
    for size in arguments.sizes:
        torch.manual_seed(0)
        layers = {"num_hidden_layers": arguments.layers} if arguments.layers else {}
        config = BertConfig(**SIZES[size] | layers, vocab_size=1000)
        model = BertModel(config, add_pooling_layer=False).eval()
        ca.attach(model, ca.ConditionalAdapterConfig(reduction_factor=arguments.factor))
        inputs = {"input_ids": torch.randint(1000, (arguments.batch, arguments.tokens))}
        results[size] = measure(model, inputs, arguments.rounds)
    write_report(arguments.output, run, results)


if __name__ == "__main__":
    main()
