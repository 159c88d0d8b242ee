"""Time the `adapters` library against its own plain model; `benchmarks.adapters_library` runs this.

It runs in an environment of its own, in which this project is not installed, and imports nothing of
it. Prints JSON.
"""

import argparse
import ctypes
import json
import random
import statistics
import time
from importlib.metadata import version

import adapters
import torch
from transformers import BertConfig, BertModel


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", required=True, help="rows x tokens, as in 8x512")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--adapter-dim", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    mallopt = ctypes.CDLL(None).mallopt  # keep freed pages, as all our timings do
    mallopt(-4, 0)
    mallopt(-1, 2**31 - 1)
    config = BertConfig(num_hidden_layers=arguments.layers)
    plain = BertModel(config, add_pooling_layer=False).eval()
    adapted = BertModel(config, add_pooling_layer=False)
    adapters.init(adapted)
    factor = config.hidden_size / arguments.adapter_dim
    adapted.add_adapter("own", config=adapters.ParBnConfig(reduction_factor=factor))
    adapted.set_active_adapters("own")
    models = {"plain": plain, "adapted": adapted.eval()}
    results = {}
    for shape in arguments.shapes:
        batch, tokens = map(int, shape.split("x"))
        inputs = {
            "input_ids": torch.randint(config.vocab_size, (batch, tokens)),
            "attention_mask": torch.ones(batch, tokens, dtype=torch.int64),
        }
        times: dict[str, list[float]] = {name: [] for name in models}
        for index in range(1 + arguments.rounds):
            for name in random.Random(index).sample(list(models), len(models)):
                start = time.perf_counter()
                with torch.inference_mode():
                    models[name](**inputs)
                if index:
                    times[name].append(time.perf_counter() - start)
        ratios = [a / b for a, b in zip(times["plain"], times["adapted"], strict=True)]
        results[f"{batch} x {tokens}"] = statistics.median(ratios)
    names = ("adapters", "transformers", "torch")
    print(json.dumps({"versions": {n: version(n) for n in names}, "times_faster": results}))


if __name__ == "__main__":
    main()
