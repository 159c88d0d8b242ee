"""Throughput of texts of mixed lengths, next to texts of equal length.

Articles are cut to lengths from a log-normal distribution, clipped to 32 to 512 tokens, and run in
batches sorted by length. Compared are the same number of tokens in articles of the mean length, and
the same articles in random order, padded to the longest of each batch. Dense with adapters and
conditional; all take turns in every round, and ratios are taken within a round.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import conditional_adapters as ca
from benchmarks._report import Report, describe_run, make_parser, parse, write_report
from conditional_adapters.analysis.timing import Timing, time_interleaved
from conditional_adapters.toolkit.assets import bbc_news
from conditional_adapters.toolkit.tasks._collate import examples_of
from conditional_adapters.toolkit.tasks.inference import batches_by_length
from conditional_adapters.toolkit.tasks.models import Classifier, load_classifier

BATCH, ADAPTER_DIM, SHORTEST, LONGEST = 8, 64, 32, 512
MEDIAN, SPREAD = 128, 0.8  # of the log-normal distribution: tokens, and deviation of their log
FACTORS = {"dense + adapter": 1.0, "conditional, r = 4": 4.0, "conditional, r = 8": 8.0}
EQUAL, BY_LENGTH, AS_THEY_COME = "equal lengths", "mixed, by length", "mixed, as they come"

Columns = Mapping[str, Any]


def draw_lengths(num_texts: int) -> list[int]:
    """Lengths in tokens, in random order."""
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), SPREAD, num_texts)
    return np.clip(drawn.round(), SHORTEST, LONGEST).astype(int).tolist()


def cut(classifier: Classifier, lengths: list[int]) -> Columns:
    """Articles as tokens, cut to the given lengths; shorter articles are skipped."""
    texts = (article.text for article in bbc_news())
    columns: dict[str, list[list[int]]] = {}
    for length in lengths:
        while True:
            encoded = classifier.encode({"text": [next(texts)]})
            if len(encoded["input_ids"][0]) >= length:
                break
        for key, (values,) in encoded.items():
            columns.setdefault(key, []).append([*values[: length - 1], values[-1]])
    return columns


def measure(num_texts: int, num_rounds: int) -> Report:
    """Seconds and throughput of each kind of batch, by candidate."""
    classifier = load_classifier("packaged:minilm", ["a", "b"], max_length=LONGEST)
    classifier.model.eval()
    config = ca.ConditionalAdapterConfig(reduction_factor=1, adapter_dim=ADAPTER_DIM)
    ca.attach(classifier.model, config)
    lengths = draw_lengths(num_texts)
    mean = round(sum(lengths) / len(lengths))
    mixed = cut(classifier, lengths)
    inputs = {EQUAL: cut(classifier, [mean] * num_texts), BY_LENGTH: mixed, AS_THEY_COME: mixed}
    tokens = {EQUAL: mean * num_texts, BY_LENGTH: sum(lengths), AS_THEY_COME: sum(lengths)}
    keys = [(name, way) for name in FACTORS for way in inputs]
    times = time_interleaved(
        {key: _runner(classifier, inputs[key[1]], key[1]) for key in keys},  # type: ignore[misc]
        prepare=lambda key: ca.set_reduction_factor(classifier.model, FACTORS[key[0]]),
        rounds=num_rounds,
        warmup=1,
    )
    report: Report = {
        "texts": num_texts,
        "mean_tokens": mean,
        "padding_as_they_come": round(_padding(lengths), 3),
        "padding_by_length": round(_padding_by_length(classifier, mixed), 3),
    }
    for name in FACTORS:
        report[name] = {way: _summarise(name, way, times, tokens) for way in inputs}
    return report


def _runner(classifier: Classifier, examples: Columns, way: str) -> Callable[[], None]:
    if way == AS_THEY_COME:
        rows = examples_of(examples)
        chunks = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
        batches = [classifier.collate(chunk) for chunk in chunks]
    else:
        batches = [batch for _, batch in batches_by_length(classifier, examples, BATCH)]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                classifier.infer(batch)

    return run


def _padding(lengths: list[int]) -> float:
    """Share of padding in unsorted batches."""
    chunks = [lengths[first : first + BATCH] for first in range(0, len(lengths), BATCH)]
    return 1 - sum(lengths) / sum(max(chunk) * len(chunk) for chunk in chunks)


def _padding_by_length(classifier: Classifier, examples: Columns) -> float:
    """Share of padding in batches sorted by length: the most that packing tokens could save."""
    masks = [batch["attention_mask"] for _, batch in batches_by_length(classifier, examples, BATCH)]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def _summarise(
    name: str, way: str, times: Mapping[tuple[str, str], Timing], tokens: Mapping[str, int]
) -> Report:
    timing = times[name, way]
    per_token = tokens[way] / tokens[EQUAL]
    quartiles = [round(value, 3) for value in timing.quartiles]
    return {
        "seconds": dict(zip(("q1", "median", "q3"), quartiles, strict=True)),
        "tokens_per_second": round(tokens[way] / timing.median),
        "share_of_equal_lengths": round(timing.speed_up(times[name, EQUAL]) * per_token, 3),
        "times_faster_than_dense": round(timing.speed_up(times["dense + adapter", way]), 3),
    }


def main() -> None:
    """Measure, print and write the result."""
    threads = torch.get_num_threads()
    parser = make_parser(__doc__, rounds=3, threads=threads, output="ragged.json")
    parser.add_argument("--texts", type=int, default=200, help="number of texts")
    arguments = parse(parser)
    run = describe_run("benchmarks.ragged", "transformers") | {
        "model": "packaged:minilm",
        "dtype": "float32",
        "batch_size": BATCH,
        "lengths": f"log-normal, median {MEDIAN}, deviation {SPREAD}, {SHORTEST} to {LONGEST}",
        "adapter_dim": ADAPTER_DIM,
        "rounds": arguments.rounds,
    }
    write_report(arguments.output, run, measure(arguments.texts, arguments.rounds))


if __name__ == "__main__":
    main()
