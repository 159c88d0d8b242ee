"""Latency of encoders of several sizes, lengths and batches: dense, with adapters, conditional.

For each model, shape and type all candidates take turns in every round, and ratios are taken within
a round. The report has the FLOP ratio and the lower bound of each candidate: the same matrix
products and attention alone, with nothing between them. `--packed` prepacks the weights of all
candidates (`prepack_weights`), `--compile` measures them through `torch.compile`. `--step` measures
a training step of the new parameters and its peak memory instead, each candidate in a process.

Results of other cells in the file are kept; a new measurement replaces the old one of its cell.
`--grid` measures all models, lengths, batches and types, the cheapest cell first, and skips cells
that the file has, so it can be stopped and started again. It prints an estimate of the time first
and skips cells that take longer than `--cell-minutes`.
"""

import argparse
import json
import multiprocessing
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import conditional_adapters as ca
from benchmarks import _grid
from benchmarks._encoder_models import MODELS, TYPES, build, make_inputs, prepare
from benchmarks._grid import Cell
from benchmarks._products import products_alone
from benchmarks._report import (
    RESULTS,
    Report,
    describe_allocator,
    describe_run,
    milliseconds,
)
from conditional_adapters.analysis import estimate_flops
from conditional_adapters.analysis.timing import compile_module, time_interleaved
from conditional_adapters.checkpoint.atomic import replace_text

DENSE, REFERENCE = "dense", "dense + adapter"


def _candidates(factors: list[float]) -> dict[str, float | None]:
    return {DENSE: None, REFERENCE: 1.0} | {f"conditional, r = {r:g}": r for r in factors}


def measure_forward(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    factors: list[float],
    rounds: int,
    *,
    compiled: bool = False,
) -> Report:
    """Latency, operations and lower bound of a forward pass, by candidate."""
    names = _candidates(factors)
    if compiled:
        torch._dynamo.reset()  # drops the graphs of other shapes

    def run(encoder: Callable[..., object]) -> None:
        with torch.inference_mode():
            encoder(**inputs)

    def callable_model() -> Callable[..., object]:
        return compile_module(model) if compiled else model

    runs: dict[str, Callable[[], None]] = {name: partial(run, callable_model()) for name in names}
    flops = {}
    for name, factor in names.items():
        prepare(model, factor)
        runs[f"lower bound of {name}"] = products_alone(model, inputs)
        prepare(model, factor or 1.0)
        count = estimate_flops(model, inputs=inputs)
        flops[name] = count.dense if factor is None else count.total
    times = time_interleaved(
        runs,
        prepare=lambda name: prepare(model, names[name]) if name in names else None,
        rounds=rounds,
        warmup=1,
    )
    report: Report = {}
    for name in names:
        ratio, speed_up = flops[REFERENCE] / flops[name], times[name].speed_up(times[REFERENCE])
        report[name] = {
            "milliseconds": milliseconds(times[name]),
            "times_faster": round(speed_up, 3),
            "flop_ratio": round(ratio, 3),
            "share_of_flop_ratio": round(speed_up / ratio, 3),
            "time_over_floor": round(times[f"lower bound of {name}"].speed_up(times[name]), 3),
        }
    return report


def training_step(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """One AdamW step on the new parameters, for a loss that depends on all of them."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        model(**inputs)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_step(cell: Cell, factors: list[float]) -> Report:
    """Latency and peak memory of a training step, by candidate."""
    model = build(cell.model, cell.dtype).train()
    inputs = make_inputs(model, cell.batch, cell.tokens)
    names = {key: value for key, value in _candidates(factors).items() if value is not None}
    step = training_step(model, inputs)
    times = time_interleaved(
        dict.fromkeys(names, step),
        prepare=lambda key: prepare(model, names[key]),
        rounds=cell.rounds,
        warmup=1,
    )
    flops = {}
    for key, factor in names.items():
        prepare(model, factor)
        flops[key] = estimate_flops(model, inputs=inputs).total
    memory = {key: _in_new_process(cell, names[key]) for key in names}
    return {
        key: {
            "milliseconds": milliseconds(times[key]),
            "times_faster": round(times[key].speed_up(times[REFERENCE]), 3),
            "flop_ratio_of_forward": round(flops[REFERENCE] / flops[key], 3),
            "peak_megabytes": round(memory[key] / 1e6),
            "share_of_peak_memory": round(memory[key] / memory[REFERENCE], 3),
        }
        for key in names
    }


def _in_new_process(cell: Cell, factor: float) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (cell, factor))


def _peak_memory(cell: Cell, factor: float) -> int:
    """Bytes that two training steps add to this process."""
    model = build(cell.model, cell.dtype).train()
    inputs = make_inputs(model, cell.batch, cell.tokens)
    prepare(model, factor)
    step = training_step(model, inputs)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    step()
    step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None, "Linux reports memory here"
    return 1024 * int(match[1])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", action="store_true", help="all models, sizes and types")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="packaged-minilm")
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, help="float32")
    parser.add_argument("--batches", nargs="+", type=int, help="8")
    parser.add_argument("--tokens", nargs="+", type=int, help="length of texts; 512")
    parser.add_argument("--factors", nargs="+", type=float, default=_grid.FACTORS)
    parser.add_argument("--rounds", type=int, help="3 or more; default: 30 seconds, 3 to 41")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--step", action="store_true", help="a training step and its memory")
    parser.add_argument(
        "--compile", dest="compiled", action="store_true", help="forward passes, compiled"
    )
    parser.add_argument("--packed", action="store_true", help="forward passes, prepacked weights")
    parser.add_argument("--cell-minutes", type=float, default=15, help="longest cell of a grid")
    parser.add_argument("--again", action="store_true", help="in a grid: measure known cells again")
    parser.add_argument("--estimate", action="store_true", help="print an estimate and exit")
    parser.add_argument("--output", type=Path, default=RESULTS / "encoders.json")
    arguments = parser.parse_args()
    if arguments.step and (arguments.compiled or arguments.packed):
        parser.error("--step cannot be combined with --compile or --packed.")
    is_grid = arguments.grid
    arguments.models = arguments.models or (list(MODELS) if is_grid else ["packaged-minilm"])
    arguments.dtypes = arguments.dtypes or (list(TYPES) if is_grid else ["float32"])
    arguments.batches = arguments.batches or (_grid.BATCHES if is_grid else [8])
    arguments.tokens = arguments.tokens or (_grid.LENGTHS if is_grid else [512])
    how = [name for name in ("packed", "compiled") if getattr(arguments, name)]
    arguments.kind = "step" if arguments.step else " ".join([*how, "forward"])
    return arguments


def _choose(arguments: argparse.Namespace, results: dict[str, Any]) -> list[Cell]:
    """Cells to measure; prints an estimate of the time."""
    sizes = (arguments.models, arguments.dtypes, arguments.batches, arguments.tokens)
    print("estimating ...", flush=True)
    cells = list(_grid.estimate(*sizes, factors=arguments.factors, rounds=arguments.rounds))
    if arguments.grid:
        kept = set() if arguments.again else set(results)
        print(f"measured already: {sum(cell.key(arguments.kind) in kept for cell, _ in cells)}")
        cells = [(cell, time) for cell, time in cells if cell.key(arguments.kind) not in kept]
        long = [cell for cell, time in cells if time > 60 * arguments.cell_minutes]
        cells = sorted((c for c in cells if c[0] not in long), key=lambda cell: cell[1])
        for cell in long:
            print(f"skipped, longer than {arguments.cell_minutes:g} min: {cell.key('')[:-2]}")
    for cell, time in cells:
        print(f"about {time / 60:5.1f} min, {cell.rounds} rounds: {cell.key(arguments.kind)}")
    total = sum(time for _, time in cells) / 60
    print(f"{len(cells)} cells, about {total:.0f} min or more: an estimate by operations alone")
    return [cell for cell, _ in cells]


def _measure(cell: Cell, arguments: argparse.Namespace) -> Report:
    """Measure one cell; returns provenance, settings and results."""
    run = describe_run("benchmarks.encoders", "transformers")
    model = build(cell.model, cell.dtype)
    settings = {
        "rounds": cell.rounds,
        "attention": model.config._attn_implementation,
        "allocator": describe_allocator(),
    }
    if arguments.step:
        found = measure_step(cell, arguments.factors)
    else:
        if arguments.packed:
            ca.prepack_weights(model)
        inputs = make_inputs(model, cell.batch, cell.tokens)
        found = measure_forward(
            model,
            inputs,
            arguments.factors,
            cell.rounds,
            compiled=arguments.compiled,
        )
    return run | settings | {"results": found}


def main() -> None:
    """Measure, print and write the chosen cells."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {}
    if arguments.output.exists():
        results = json.loads(arguments.output.read_text())
    cells = _choose(arguments, results)
    for cell in () if arguments.estimate else cells:
        key = cell.key(arguments.kind)
        results[key] = _measure(cell, arguments)
        replace_text(arguments.output, json.dumps(dict(sorted(results.items())), indent=2) + "\n")
        print(key, json.dumps(results[key]["results"], indent=2), sep="\n", flush=True)


if __name__ == "__main__":
    main()
