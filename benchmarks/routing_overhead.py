"""What routing costs in a forward pass: scores, choice and weights, gathering, adding back.

The arguments of every such call are kept from one forward pass; then the calls of each piece are
made again alone, for all layers, in turns with the whole forward pass. A profiler in the running
model would not do: it charges the first write to fresh memory, which the rest of the layer pays as
well, to whichever operator comes first. Each layer's calls keep tensors of their own, so these come
from memory as they do in the model.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

import conditional_adapters as ca
from benchmarks._report import RESULTS, Report, describe_run, write_report
from conditional_adapters.analysis.timing import time_interleaved
from conditional_adapters.modules import Router, conditional_layer

WHOLE = "forward pass"
# The pieces, and the functions that do them, in the order of a layer.
PIECES: dict[str, tuple[Any, str]] = {
    "scores of the router": (Router, "score"),
    "choice and weights": (Router, "decide"),
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
    """Note each call of a function while the context is open, to make it again."""
    function = getattr(owner, name)

    def note(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        # What is changed in place needs a copy from before.
        kept = tuple(_copy(a) if name.endswith("_") and i == 0 else a for i, a in enumerate(args))
        calls.append(lambda: function(*kept, **kwargs))
        return function(*args, **kwargs)

    with patch.object(owner, name, note):
        yield


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def pieces_of(model: BertModel, inputs: dict[str, Tensor]) -> dict[str, list[Call]]:
    """Run the model once for each piece; return the calls of each, layer by layer."""
    calls: dict[str, list[Call]] = {piece: [] for piece in PIECES}
    for piece, (owner, name) in PIECES.items():
        with recorded(owner, name, calls[piece]), torch.inference_mode():
            model(**inputs)
    return calls


def measure(model: BertModel, inputs: dict[str, Tensor], rounds: int) -> Report:
    """Return the time of the forward pass, and time and share of each piece."""
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds, at least 3")
    parser.add_argument("--layers", type=int, help="instead of the size's own")
    parser.add_argument("--batch", type=int, default=8, help="rows")
    parser.add_argument("--tokens", type=int, default=512, help="of each row")
    parser.add_argument("--factor", type=float, default=4, help="r")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / "routing_overhead.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
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
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
