"""Latency of large encoders on a GPU in bfloat16.

For each model all candidates take turns: dense, with a dense adapter, and conditional with the
operators in torch and in Triton; first eager, then as CUDA graphs, which have no launch overhead.
Speed-ups are over the dense adapter in the same mode. The operators alone and training steps of the
new parameters follow.

The file is written after each part, so an interrupted run keeps its results. A part that fails has
its error in place of results. `--device cpu --tiny` tries the script without a GPU.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._encoder_models import TYPES
from benchmarks._gpu_cells import Part, Settings, forward_parts, step_parts
from benchmarks._gpu_operators import operator_parts
from benchmarks._gpu_report import describe_device, describe_error
from benchmarks._report import RESULTS, Report, describe_run
from conditional_adapters.checkpoint.atomic import replace_text

BACKENDS = ("torch", "triton")


def cells(settings: Settings) -> dict[str, Callable[[], Iterator[Part]]]:
    """The parts of each cell by name, the most important first."""
    return {
        "T5-XL, 32 x 512, forward": partial(forward_parts, "T5-XL", 32, 512, settings),
        "ViT-L/16, 32 x 197, forward": partial(
            forward_parts, "ViT-L/16 at 224", 32, None, settings
        ),
        "Whisper-large-v3, 32 x 1500, forward": partial(
            forward_parts, "Whisper-large-v3", 32, None, settings
        ),
        "operators": partial(operator_parts, settings),
        "BERT-base, 32 x 512, forward": partial(forward_parts, "BERT-base", 32, 512, settings),
        "T5-XL, 8 x 512, step": partial(step_parts, "T5-XL", 8, 512, settings),
        "BERT-base, 32 x 512, step": partial(step_parts, "BERT-base", 32, 512, settings),
        "ViT-L/16, 32 x 1025, forward": partial(
            forward_parts, "ViT-L/16 at 512", 32, None, settings
        ),
        "T5-XL, 1 x 512, forward": partial(forward_parts, "T5-XL", 1, 512, settings),
    }


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models")
    parser.add_argument("--dtype", choices=TYPES, default="bfloat16")
    parser.add_argument("--factors", nargs="+", type=float, default=[2, 4, 8])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all")
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds, at least 3")
    parser.add_argument("--warmup", type=int, default=3, help="unmeasured rounds before")
    parser.add_argument("--only", nargs="+", help="cells whose names contain one of these strings")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    return parser.parse_args(arguments)


def _chosen(arguments: argparse.Namespace, names: Sequence[str]) -> list[str]:
    if arguments.only:
        return [name for name in names if any(part in name for part in arguments.only)]
    return list(names)


def measure_all(
    todo: dict[str, Callable[[], Iterator[Part]]],
    save: Callable[[dict[str, Any]], None],
    *,
    seconds: float,
) -> None:
    """Measure cell by cell and part by part; a failed part has its error in place of results.

    Args:
        todo: Parts of each cell, by its name.
        save: Called with all results after each part.
        seconds: Time after which no part is started.
    """
    start = time.monotonic()
    results: dict[str, Any] = {}
    for name, parts in todo.items():
        if time.monotonic() - start > seconds:
            print(f"no time left for {name}", flush=True)
            continue
        results[name] = {}
        try:
            for part, measure in parts():
                if time.monotonic() - start > seconds:
                    break
                results[name][part] = _attempt(measure)
                print(f"{time.monotonic() - start:6.1f} s  {name}, {part}", flush=True)
                print(json.dumps(results[name][part], indent=1), flush=True)
                save(results)
        except Exception as error:  # building the model failed
            results[name]["error"] = describe_error(error)
            print(name, results[name]["error"], flush=True)
            save(results)


def _attempt(measure: Callable[[], Report]) -> Report:
    try:
        return measure()
    except Exception as error:
        return {"error": describe_error(error)}


def main() -> None:
    """Measure, print and write the chosen cells."""
    arguments = _parse()
    default = BACKENDS if arguments.device == "cuda" else BACKENDS[:1]
    settings = Settings(
        device=arguments.device,
        dtype=TYPES[arguments.dtype],
        factors=tuple(arguments.factors),
        backends=tuple(arguments.backends or default),
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        is_tiny=arguments.tiny,
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    run = describe_run("benchmarks.gpu", "transformers", with_processor=True) | {
        **describe_device(arguments.device),
        "dtype": arguments.dtype,
        "rounds": arguments.rounds,
    }

    def save(results: dict[str, Any]) -> None:
        replace_text(arguments.output, json.dumps(run | {"results": results}, indent=2) + "\n")

    every = cells(settings)
    todo = {name: every[name] for name in _chosen(arguments, list(every))}
    with contextlib.suppress(KeyboardInterrupt):
        measure_all(todo, save, seconds=arguments.budget_seconds)


if __name__ == "__main__":
    main()
