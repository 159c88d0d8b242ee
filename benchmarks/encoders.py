"""Time encoders of several sizes, lengths and batches: dense, with adapters, and conditional.

For each model, shape and type all candidates take turns in every round, and ratios are taken within
a round. Beside each time stand the ratio of floating-point operations and the floor: the same
matrix products and attention alone, with nothing between them. `--compile` times all through
`torch.compile`. `--step` times a training step of the new parameters instead and measures its peak
memory, each candidate in a process of its own.

What is in the results file already is kept; a new measurement replaces that of the same shape.
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
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import conditional_adapters as ca
from benchmarks._products import products_alone
from benchmarks._report import RESULTS, Report, describe_run
from conditional_adapters.analysis import estimate_flops
from conditional_adapters.analysis.timing import Timing, compile_module, time_interleaved
from conditional_adapters.assets import load_packaged_model

ADAPTER_DIM = 64
DENSE, REFERENCE = "dense", "dense + adapter"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _bert() -> PreTrainedModel:
    return BertModel(BertConfig(max_position_embeddings=8192), add_pooling_layer=False)


def _t5() -> PreTrainedModel:
    return T5EncoderModel(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))


def _vit(pixels: int) -> PreTrainedModel:
    return ViTModel(ViTConfig(image_size=pixels), add_pooling_layer=False)


def _whisper() -> PreTrainedModel:
    size = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8}
    return WhisperEncoder(WhisperConfig(**size, encoder_ffn_dim=2048))


# Those that begin with "packaged" have real weights, the others random ones.
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "packaged-minilm": partial(load_packaged_model, "minilm"),
    "packaged-dinov2": partial(load_packaged_model, "dinov2"),
    "bert-base": _bert,
    "t5-base": _t5,
    "vit-base-224": partial(_vit, 224),
    "vit-base-448": partial(_vit, 448),
    "whisper-base": _whisper,
}


def build(name: str, dtype: str) -> PreTrainedModel:
    """Return a model with a dense adapter, in evaluation mode."""
    torch.manual_seed(0)
    model = MODELS[name]().eval().to(TYPES[dtype])
    return ca.attach(
        model, ca.ConditionalAdapterConfig(reduction_factor=1, adapter_dim=ADAPTER_DIM)
    )


def make_inputs(model: PreTrainedModel, batch: int, tokens: int | None) -> dict[str, Tensor]:
    """Return random token ids, pixels or spectrograms."""
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.randint(model.config.vocab_size, (batch, tokens or 512))}
    if model.main_input_name == "pixel_values":
        size = 224 if model.config.model_type == "dinov2" else model.config.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, dtype=model.dtype)}
    frames = 2 * model.config.max_source_positions
    return {"input_features": torch.randn(batch, model.config.num_mel_bins, frames).to(model.dtype)}


def prepare(model: PreTrainedModel, factor: float | None) -> None:
    """Make the model dense (None), dense with adapters (1) or conditional."""
    ca.set_adapter(model, None if factor is None else "default")
    if factor is not None:
        ca.set_reduction_factor(model, factor)


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
    """Return times, operations and floors of a forward pass, by candidate."""
    names = _candidates(factors)
    encoder = compile_module(model, variants=len(names)) if compiled else model

    def run() -> None:
        with torch.inference_mode():
            encoder(**inputs)

    runs, flops = dict.fromkeys(names, run), {}
    for name, factor in names.items():
        prepare(model, factor)
        runs[f"floor of {name}"] = products_alone(model, inputs)
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
            **_milliseconds(times[name]),
            "times_faster": round(speed_up, 3),
            "flop_ratio": round(ratio, 3),
            "share_of_flop_ratio": round(speed_up / ratio, 3),
            "time_over_floor": round(times[f"floor of {name}"].speed_up(times[name]), 3),
        }
    return report


def _milliseconds(timing: Timing) -> Report:
    lower, median, upper = (round(1e3 * seconds, 2) for seconds in timing.quartiles)
    return {"milliseconds": {"median": median, "q1": lower, "q3": upper}}


def _training_step(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """Return one step of AdamW on the new parameters, for a loss that reaches all of them."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        model(**inputs).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_step(
    name: str, dtype: str, batch: int, tokens: int | None, factors: list[float], rounds: int
) -> Report:
    """Return times and peak memory of a training step, by candidate."""
    model = build(name, dtype).train()
    inputs = make_inputs(model, batch, tokens)
    names = {key: value for key, value in _candidates(factors).items() if value is not None}
    step = _training_step(model, inputs)
    times = time_interleaved(
        dict.fromkeys(names, step),
        prepare=lambda key: prepare(model, names[key]),
        rounds=rounds,
        warmup=1,
    )
    flops = {}
    for key, factor in names.items():
        prepare(model, factor)
        flops[key] = estimate_flops(model, inputs=inputs).total
    memory = {key: _in_new_process(name, dtype, batch, tokens, names[key]) for key in names}
    return {
        key: {
            **_milliseconds(times[key]),
            "times_faster": round(times[key].speed_up(times[REFERENCE]), 3),
            "flop_ratio_of_forward": round(flops[REFERENCE] / flops[key], 3),
            "peak_megabytes": round(memory[key] / 1e6),
            "share_of_peak_memory": round(memory[key] / memory[REFERENCE], 3),
        }
        for key in names
    }


def _in_new_process(*cell: object) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, cell)


def _peak_memory(name: str, dtype: str, batch: int, tokens: int | None, factor: float) -> int:
    """Return the bytes by which two training steps raise this process's memory."""
    model = build(name, dtype).train()
    inputs = make_inputs(model, batch, tokens)
    prepare(model, factor)
    step = _training_step(model, inputs)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    step()
    step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None, "Linux reports memory here"
    return 1024 * int(match[1])


def main() -> None:
    """Measure, print and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["packaged-minilm"])
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, default=["float32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8])
    parser.add_argument("--tokens", nargs="+", type=int, default=[512], help="of texts")
    parser.add_argument("--factors", nargs="+", type=float, default=[2, 3, 4, 5, 8])
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, at least 3")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--step", action="store_true", help="a training step and its memory")
    parser.add_argument("--compile", action="store_true", help="forward passes, compiled")
    parser.add_argument("--output", type=Path, default=RESULTS / "encoders.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {}
    if arguments.output.exists():
        results = json.loads(arguments.output.read_text())
    for name in arguments.models:
        for dtype in arguments.dtypes:
            model = build(name, dtype)
            lengths = arguments.tokens if model.main_input_name == "input_ids" else [None]
            for batch, tokens in ((b, n) for b in arguments.batches for n in lengths):
                if tokens and tokens > getattr(model.config, "max_position_embeddings", tokens):
                    continue
                run = describe_run("benchmarks.encoders", "transformers")
                settings = {
                    "rounds": arguments.rounds,
                    "attention": model.config._attn_implementation,
                }
                if arguments.step:
                    cell = (name, dtype, batch, tokens, arguments.factors, arguments.rounds)
                    found = measure_step(*cell)
                else:
                    inputs = make_inputs(model, batch, tokens)
                    cell = (model, inputs, arguments.factors, arguments.rounds)
                    found = measure_forward(*cell, compiled=arguments.compile)
                kind = "compiled forward" if arguments.compile else "forward"
                kind = "step" if arguments.step else kind
                key = f"{name}, {dtype}, {batch} x {tokens or 'native'}, {kind}"
                results[key] = run | settings | {"results": found}
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(
                    json.dumps(dict(sorted(results.items())), indent=2) + "\n"
                )
                print(key, json.dumps(found, indent=2), sep="\n")


if __name__ == "__main__":
    main()
