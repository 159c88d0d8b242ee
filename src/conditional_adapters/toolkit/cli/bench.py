"""`coda bench`: latency of dense and conditional encoders on this machine."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
import typer
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ...analysis import estimate_flops
from ...analysis.break_even import break_even, time_sizes
from ...analysis.flops import dummy_inputs
from ...analysis.timing import Timing, compile_module, time_interleaved
from ...config import ConditionalAdapterConfig
from ...errors import ConfigError
from ...model.attach import attach, set_adapter, set_dense_below, set_reduction_factor
from ...model.structure import find_sites
from ...prepacking import prepack_weights
from ..assets import load_packaged_model
from ..tasks._loading import from_pretrained, load_model
from ..tasks.models import PACKAGED
from . import _options as options
from ._console import print_json, print_table

_DENSE, _REFERENCE = "dense", "dense + adapter"
COMPILED = ", compiled"


def bench(
    model: options.Model = "packaged:minilm",
    reduction_factor: Annotated[
        list[float] | None, typer.Option("--reduction-factor", "-r", help="Repeatable.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per forward pass.")] = 8,
    sequence_length: Annotated[
        int, typer.Option(min=1, help="Tokens per text; images and speech have a fixed length.")
    ] = 256,
    adapter_dim: Annotated[int, typer.Option(help="Width of the bottleneck.")] = 64,
    rounds: Annotated[int, typer.Option(min=3, help="Timed forward passes per encoder.")] = 15,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Load only the configuration of the model.")
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Time compiled encoders as well (some minutes, needs g++)."),
    ] = False,
    prepacked: options.Prepacked = False,
    dense_below: Annotated[
        int | None,
        typer.Option(min=1, help="Run batches of fewer tokens (batch x length) dense."),
    ] = None,
    find_break_even: Annotated[
        bool,
        typer.Option(
            "--break-even",
            help="Time lengths up to --sequence-length, and print from which on routing pays.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare the latency of an encoder without adapters, with dense and with conditional ones.

    All run in turns in one process on the same random input. Quote the ratios, not the times. The
    reference of the speed-up is the encoder with dense adapters; compiled encoders are compared
    with the compiled one.
    """
    factors = reduction_factor or [2.0, 4.0, 8.0]
    network = _load(model, random_weights)
    attach(network, ConditionalAdapterConfig(reduction_factor=1, adapter_dim=adapter_dim))
    sites = find_sites(network)
    text_length = sequence_length if network.main_input_name == "input_ids" else None
    setting = f"{model}, batch {batch_size}, {text_length or 'native'} tokens, " + (
        f"{torch.get_num_threads()} threads, {network.dtype}, {network.config._attn_implementation}"
    )
    if prepacked:
        prepack_weights(network)
        setting += ", prepacked weights"
    if find_break_even:
        if dense_below is not None or compiled:
            raise ConfigError(
                "--break-even times every size routed and not compiled; leave --dense-below and "
                "--compile away."
            )
        if text_length is None:
            raise ConfigError(
                "--break-even needs a text model, as images and speech have a fixed length. "
                "Compare values of --batch-size instead."
            )
        sizes = (batch_size, sequence_length)
        _print_break_even(network, sizes, factors, rounds, setting=setting, as_json=as_json)
        return
    if dense_below is not None:
        set_dense_below(network, dense_below)
        setting += f", dense below {dense_below} tokens"
    inputs = _random_inputs(
        dummy_inputs(sites, batch_size=batch_size, sequence_length=text_length), network
    )
    factors_by_name: dict[str, float | None] = {_DENSE: None, _REFERENCE: 1.0}
    factors_by_name |= {f"conditional, r = {factor:g}": factor for factor in factors}

    def prepare(name: str) -> None:
        factor = factors_by_name[name]
        set_adapter(network, None if factor is None else "default")
        if factor is not None:
            set_reduction_factor(network, factor)

    timings = time_encoders(
        sites.runner, inputs, factors_by_name, prepare, compiled=compiled, rounds=rounds
    )
    flops = {}
    for name, factor in factors_by_name.items():
        set_adapter(network, "default")
        set_reduction_factor(network, factor or 1.0)
        count = estimate_flops(network, batch_size=batch_size, sequence_length=text_length)
        flops[name] = count.dense if factor is None else count.total
    rows = [
        {
            "encoder": name + mode,
            "seconds": timings[name + mode].median,
            "quartiles": timings[name + mode].quartiles[::2],
            "speed_up": timings[name + mode].speed_up(over=timings[_REFERENCE + mode]),
            "flop_ratio": flops[_REFERENCE] / flops[name],
        }
        for mode in (["", COMPILED] if compiled else [""])
        for name in factors_by_name
    ]
    if as_json:
        print_json({"setting": setting, "torch": torch.__version__, "rows": rows})
    else:
        print_table(setting, [_format(row) for row in rows])


def time_encoders(
    encoder: Any,  # noqa: ANN401
    inputs: Mapping[str, torch.Tensor],
    names: Iterable[str],
    prepare: Callable[[str], object],
    *,
    compiled: bool,
    rounds: int,
) -> dict[str, Timing]:
    """Time an encoder in several states, in turns; `prepare` sets the state of a name."""
    encoders: dict[str, Callable[..., object]] = dict.fromkeys(names, encoder)
    if compiled:
        encoders |= {name + COMPILED: compile_module(encoder) for name in names}

    def run(encoder: Callable[..., object]) -> None:
        with torch.inference_mode():
            encoder(**inputs)

    return time_interleaved(
        {name: partial(run, encoder) for name, encoder in encoders.items()},
        prepare=lambda name: prepare(name.removesuffix(COMPILED)),
        rounds=rounds,
        show_progress=True,
    )


def _format(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["quartiles"]
    return {
        "encoder": row["encoder"],
        "median": f"{row['seconds'] * 1e3:.1f} ms",
        "quartiles (ms)": f"{low * 1e3:.0f}-{high * 1e3:.0f}",
        "speed-up": f"{row['speed_up']:.2f}x",
        "FLOP ratio": f"{row['flop_ratio']:.2f}x",
        "share": f"{row['speed_up'] / row['flop_ratio']:.2f}",
    }


def _print_break_even(
    network: PreTrainedModel,
    largest: tuple[int, int],
    factors: list[float],
    rounds: int,
    *,
    setting: str,
    as_json: bool,
) -> None:
    """Time batches up to a size (examples, tokens) and print from where routing pays."""
    batch_size, longest = largest
    sites = find_sites(network)
    batches = {}
    for length in sorted({min(2**power, longest) for power in range(2, 32)}):
        shapes = dummy_inputs(sites, batch_size=batch_size, sequence_length=length)
        batches[batch_size * length] = _random_inputs(shapes, network)
    timings = time_sizes(network, batches, factors=factors, rounds=rounds, show_progress=True)
    found = {factor: break_even(timings, factor) for factor in factors}
    rows = [
        {
            "tokens": timing.num_tokens,
            "seconds_dense": timing.dense.median,
            "speed_up": {f"{factor:g}": timing.speed_up(factor) for factor in factors},
        }
        for timing in timings
    ]
    if as_json:
        limits = {f"{factor:g}": limit for factor, limit in found.items()}
        report = {"setting": setting, "torch": torch.__version__, "rows": rows}
        print_json(report | {"break_even_tokens": limits})
        return
    cells = [
        {
            "batch": f"{batch_size} x {timing.num_tokens // batch_size}",
            _REFERENCE: f"{timing.dense.median * 1e3:.1f} ms",
            **{f"r = {factor:g}": f"{timing.speed_up(factor):.2f}x" for factor in factors},
        }
        for timing in timings
    ]
    print_table(f"{setting}: speed-up over {_REFERENCE}", cells)
    for factor, limit in found.items():
        verdict = (
            f"pays from {limit} tokens per batch: "
            f"ca.set_dense_below(model, {limit}) or --dense-below {limit}."
        )
        if limit is None:
            verdict = f"does not pay up to {timings[-1].num_tokens} tokens."
        elif limit == timings[0].num_tokens:
            verdict = "pays at every measured size."
        print(f"r = {factor:g}: {verdict}")


def _load(model: str, random_weights: bool) -> PreTrainedModel:
    if model.startswith(PACKAGED):
        return load_packaged_model(model.removeprefix(PACKAGED)).eval()
    if random_weights:
        return AutoModel.from_config(from_pretrained(AutoConfig, model)).eval()
    return load_model(model, AutoModel)


def _random_inputs(
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]], model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for name, (shape, dtype) in shapes.items():
        if dtype.is_floating_point:
            values = torch.randn(shape, generator=generator).to(dtype)
        else:
            values = torch.randint(model.config.vocab_size, shape, generator=generator)
        inputs[name] = values.to(model.device)
    return inputs
