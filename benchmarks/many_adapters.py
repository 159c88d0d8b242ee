"""Latency of batches whose examples have different adapters, next to switching adapters.

MiniLM with 1, 8 or 64 conditional adapters processes a batch of news articles: in one call with
`adapter_names`, and with one `set_adapter` and one call for each adapter. One adapter for the whole
batch shows the cost of mixing. All take turns in every round, and ratios are taken within a round.
Replacing and adding adapters is measured as well. See docs/many-adapters.md.
"""

import tempfile
from functools import partial

import torch
from torch import Tensor
from transformers import BertModel, PreTrainedModel

import conditional_adapters as ca
from benchmarks._report import Report, describe_run, make_parser, milliseconds, parse, write_report
from conditional_adapters.analysis.timing import Timing, time_interleaved
from conditional_adapters.model.attachment import adapter_parameters
from conditional_adapters.toolkit.assets import (
    bbc_news,
    load_packaged_model,
    load_packaged_tokenizer,
)

REDUCTION_FACTOR, ADAPTER_DIM = 4, 64
COUNTS = (1, 8, 64)
SHAPES = ((64, 128), (8, 512))  # batch size and tokens
ONE, MIXED, SWITCHED = "one adapter", "mixed", "switched"


def add_adapters(model: PreTrainedModel, names: list[str]) -> None:
    """Add adapters with random weights; the first is attached."""
    config = ca.ConditionalAdapterConfig(reduction_factor=REDUCTION_FACTOR, adapter_dim=ADAPTER_DIM)
    ca.attach(model, config, adapter_name=names[0])
    for name in names[1:]:
        ca.add_adapter(model, config, adapter_name=name)
    with torch.no_grad():
        for name in names:
            for _, parameter in adapter_parameters(model, name):
                parameter.add_(0.01 * torch.randn_like(parameter))


def read_batch(num_rows: int, num_tokens: int) -> dict[str, Tensor]:
    """BBC articles, cut or joined to one length."""
    tokenizer, articles = load_packaged_tokenizer("minilm"), iter(bbc_news()[::7])
    rows = []
    while len(rows) < num_rows:
        text = next(articles).text
        while len(tokenizer(text)["input_ids"]) < num_tokens:
            text += " " + next(articles).text
        rows.append(text)
    return dict(tokenizer(rows, truncation=True, max_length=num_tokens, return_tensors="pt"))


def switch_and_run(
    model: PreTrainedModel, inputs: dict[str, Tensor], names: list[str]
) -> list[Tensor]:
    """Process the examples of each adapter in a separate call."""
    states = []
    for name in dict.fromkeys(names):
        ca.set_adapter(model, name)
        rows = [row for row, own in enumerate(names) if own == name]
        part = {key: value[rows] for key, value in inputs.items()}
        states.append(model(**part).last_hidden_state)
    return states


def measure(
    model: PreTrainedModel, names: list[str], shape: tuple[int, int], num_rounds: int
) -> dict[str, object]:
    """Latency of a batch with one adapter per name (at most one for each example)."""
    num_rows, inputs = shape[0], read_batch(*shape)
    assigned = [names[row % len(names)] for row in range(num_rows)]
    runs = {
        ONE: lambda: model(**inputs, adapter_names=names[:1] * num_rows).last_hidden_state,
        MIXED: lambda: model(**inputs, adapter_names=assigned).last_hidden_state,
        SWITCHED: lambda: switch_and_run(model, inputs, assigned),
    }
    with torch.inference_mode():
        order = sorted(range(num_rows), key=lambda row: names.index(assigned[row]))
        difference = runs[MIXED]()[order] - torch.cat(runs[SWITCHED]())
        times = time_interleaved(runs, rounds=num_rounds, warmup=1)
    return {
        "adapters_in_the_batch": len(set(assigned)),
        "largest_difference_from_switching": float(f"{difference.abs().max():.2g}"),
        **{name: _summarise(times[name]) for name in runs},
        "mixed_times_faster_than_switched": round(times[MIXED].speed_up(times[SWITCHED]), 3),
        "mixed_times_faster_than_one_adapter": round(times[MIXED].speed_up(times[ONE]), 3),
    }


def measure_swap(model: PreTrainedModel, name: str, num_rounds: int) -> dict[str, object]:
    """Latency of replacing an adapter from a file, and of adding and removing one."""
    with tempfile.TemporaryDirectory() as folder:
        ca.save_adapter(model, folder, adapter_name=name)

        def add() -> None:
            ca.load_adapter(model, folder, adapter_name="new")
            ca.remove_adapter(model, "new")

        runs = {"replaced": partial(ca.load_adapter, model, folder, adapter_name=name)}
        times = time_interleaved(runs | {"added_and_removed": add}, rounds=num_rounds, warmup=1)
    return {kind: _summarise(time) for kind, time in times.items()}


def _megabytes(parameters: list[Tensor]) -> float:
    return round(sum(p.numel() * p.element_size() for p in parameters) / 1e6, 3)


def _summarise(time: Timing) -> Report:
    return {"milliseconds": milliseconds(time)}


def main() -> None:
    """Measure, print and write the result."""
    parser = make_parser(__doc__, rounds=15, output="many_adapters.json")
    parser.add_argument("--rows", type=int, help="batch size instead of 64 and 8")
    parser.add_argument("--tokens", type=int, help="length instead of 128 and 512")
    arguments = parse(parser)
    run = describe_run("benchmarks.many_adapters", "transformers", with_processor=True) | {
        "reduction_factor": REDUCTION_FACTOR,
        "adapter_dim": ADAPTER_DIM,
        "rounds": arguments.rounds,
    }
    results: dict[str, object] = {}
    for count in COUNTS:
        model = load_packaged_model("minilm", BertModel).eval()
        backbone = _megabytes(list(model.parameters()))
        names = [f"task{index}" for index in range(count)]
        add_adapters(model, names)
        own = _megabytes([p for _, p in adapter_parameters(model, names[0])])
        everything = _megabytes(list(model.parameters()))
        batches = {}
        for rows, tokens in SHAPES:
            shape = (arguments.rows or rows, arguments.tokens or tokens)
            batches[f"{rows} x {tokens}"] = {
                "rows": shape[0],
                "tokens": shape[1],
                **measure(model, names, shape, arguments.rounds),
            }
        results[f"{count} adapters"] = {
            "megabytes": {"backbone": backbone, "an_adapter": own, "all": everything},
            "batches": batches,
            "swap": measure_swap(model, names[0], arguments.rounds),
        }
    write_report(arguments.output, run, results)


if __name__ == "__main__":
    main()
