"""Sections of the benchmark page: each renders one report as Markdown."""

import math
from collections.abc import Mapping
from typing import Any

from scripts._encoder_tables import describe, table


def minilm_table(report: Mapping[str, Any]) -> str:
    """The table of `coda bench` on MiniLM."""
    rows = [
        (
            row["encoder"],
            f"{row['seconds'] * 1e3:.0f}",
            f"{row['speed_up']:.2f}x",
            f"{row['flop_ratio']:.2f}x",
            f"{row['speed_up'] / row['flop_ratio']:.2f}",
        )
        for row in report["rows"]
    ]
    heads = ("encoder", "ms", "speed-up over dense adapters", "FLOP ratio", "speed-up / FLOP ratio")
    return table(heads, rows)


def minilm(report: Mapping[str, Any]) -> str:
    """Settings and table of `coda bench` on MiniLM."""
    about = f"{report['setting']}, torch {report['torch']}: `coda bench --json`."
    return f"{about}\n\n{minilm_table(report)}"


def lengths(report: Mapping[str, Any]) -> str:
    """Latency and speed-up by length; `draw_lengths` draws them."""
    rows = report["results"]["rows"]
    times = {(row["tokens"], row["encoder"]): row for row in rows}
    lengths, encoders = (sorted({n for n, _ in times}), list(dict.fromkeys(e for _, e in times)))
    shown = [name for name in encoders if name.startswith("r =")]
    cells = [
        (
            str(length),
            f"{times[length, 'dense + adapter']['milliseconds']:.0f}",
            *("{times_faster:.2f}x of {flop_ratio:.2f}x".format(**times[length, e]) for e in shown),
        )
        for length in lengths
    ]
    growth = {e: _growth([times[length, e] for length in lengths]) for e in encoders}
    slopes = "; ".join(f"{name}: {slope:.2f}" for name, slope in growth.items())
    heads = (
        "tokens",
        "ms, dense + adapter",
        *(f"{name}: speed-up of FLOP ratio" for name in shown),
    )
    return (
        f"One text of MiniLM's size, random weights, {describe(report)}\n\n"
        f"![Latency over tokens, both axes logarithmic](images/lengths.png)\n\n"
        f"{table(heads, cells)}\n\n"
        f"Latency grows with this power of the length, from shortest to longest: {slopes}."
    )


def _growth(rows: list[Mapping[str, Any]]) -> float:
    """Mean slope of latency over tokens on logarithmic axes."""
    first, last = rows[0], rows[-1]
    ratio = last["milliseconds"] / first["milliseconds"]
    return math.log(ratio) / math.log(last["tokens"] / first["tokens"])


def ragged(report: Mapping[str, Any]) -> str:
    """Throughput of texts of mixed lengths."""
    rows = [
        (
            name,
            way.replace("by length", "sorted").replace("as they come", "unsorted"),
            f"{row['tokens_per_second']}",
            f"{row['share_of_equal_lengths']:.2f}",
            f"{row['times_faster_than_dense']:.2f}x",
        )
        for name, ways in report["results"].items()
        if isinstance(ways, dict)
        for way, row in ways.items()
    ]
    heads = (
        "encoder",
        "texts",
        "tokens per second",
        "of equal lengths",
        "speed-up over dense adapters",
    )
    shape = f"{report['results']['texts']} articles, lengths {report['lengths']} tokens"
    return f"{shape}, {describe(report)}\n\n{table(heads, rows)}"


def peers(report: Mapping[str, Any]) -> str:
    """Latency of alternatives to conditional encoders."""
    tables = [
        table(
            (shape, "ms", "speed-up over the plain encoder"),
            [
                (
                    name.replace("packed", "prepacked"),
                    f"{row['milliseconds']['median']:.0f}",
                    f"{row['times_faster_than_plain']:.2f}x",
                )
                for name, row in candidates.items()
            ],
        )
        for shape, candidates in report["results"].items()
    ]
    about = f"BERT-base's size, random weights, {report['dtype']}, {describe(report)}"
    return "\n\n".join([about, *tables])


def routing_overhead(report: Mapping[str, Any]) -> str:
    """Share of each part of routing in a forward pass."""
    names = {
        "scores of the router": "router scores",
        "choice and weights": "selection and weights",
        "weighing and adding back": "weighted update",
    }
    pieces = next(iter(report["results"].values()))
    rows = [
        (
            names.get(piece, piece),
            *(
                f"{found[piece]['milliseconds']:.2f} ms, {found[piece]['share_of_forward']:.1%}"
                for found in report["results"].values()
            ),
        )
        for piece in pieces
    ]
    shape = (
        f"{report['batch_size']} x {report['tokens']} tokens, r = {report['reduction_factor']:g}"
    )
    cells = table((shape, *report["results"]), rows)
    return f"Random weights, {describe(report)}\n\n{cells}"


def int8(report: Mapping[str, Any]) -> str:
    """Accuracy in 8 bits, compared with float32."""
    rows = [
        (
            name,
            f"{row['accuracy']:.1%}",
            f"{100 * row['accuracy_difference']:+.1f} "
            f"({100 * row['interval'][0]:+.1f} to {100 * row['interval'][1]:+.1f})",
            f"{row['p_value']:.2f}",
            f"{row['same_class']:.1%}",
        )
        for name, row in report["results"].items()
    ]
    heads = ("", "accuracy", "difference to float32 in points (95 %)", "McNemar's p", "same class")
    part = f", {report['split']}" if report["split"] else ""
    if report.get("held_out"):
        part += f", {report['held_out']:.0%} held out"
    what = f"{report['data']}{part}, {report['rows']} examples, r = {report['reduction_factor']:g}"
    return f"{what}, {describe(report)}\n\n{table(heads, rows)}"


def many_adapters(report: Mapping[str, Any]) -> str:
    """Latency of mixed batches."""
    rows = []
    for adapters, found in report["results"].items():
        for shape, batch in found["batches"].items():
            rows.append(
                (
                    adapters.removesuffix(" adapters"),
                    f"{found['megabytes']['all']:.0f}",
                    shape,
                    f"{batch['mixed']['milliseconds']['median']:.0f}",
                    f"{batch['mixed_times_faster_than_one_adapter']:.2f}x",
                    f"{batch['mixed_times_faster_than_switched']:.2f}x",
                    f"{found['swap']['replaced']['milliseconds']['median']:.1f}",
                )
            )
    heads = (
        "adapters", "MB, model and adapters", "batch x tokens", "ms, mixed",
        "speed-up over one adapter", "speed-up over switching", "ms to replace an adapter",
    )  # fmt: skip
    return f"Random adapters, {describe(report)}\n\n{table(heads, rows)}"


def short_inputs(report: Mapping[str, Any]) -> str:
    """Speed-ups of short inputs."""
    first, *factors = next(iter(report["results"].values()))
    rows = [
        (
            shape,
            f"{row[first]['milliseconds']:.1f}",
            *(f"{row[name]['times_faster_than_dense']:.2f}x" for name in factors),
        )
        for shape, row in report["results"].items()
    ]
    heads = ("batch x tokens", f"ms, {first}", *(n.removeprefix("conditional, ") for n in factors))
    load = report["machine"]["load_average"][0]
    where = f"MiniLM's size, random weights, {report['machine']['cores']} cores at load {load}"
    return (
        f"Speed-up over dense adapters; below 1 the conditional encoder is slower. {where}, "
        f"{describe(report)}\n\n{table(heads, rows)}"
    )


def onnx(report: Mapping[str, Any]) -> str:
    """Latency in ONNX Runtime."""
    rows = []
    for name, precisions in report["results"].items():
        for precision, row in precisions.items():
            rows.append(
                (
                    name,
                    precision,
                    f"{row['megabytes']:.0f}",
                    f"{row['milliseconds']['median']:.0f}",
                    f"{row['times_faster_than_dense']:.1f}x",
                    f"{row['times_faster_than_dense_float32']:.1f}x",
                )
            )
    over = ("speed-up over dense, same type", "speed-up over dense, float32")
    heads = ("encoder", "type", "MB", "ms", *over)
    shape = f"Random weights, {report['batch_size']} x {report['tokens']} tokens"
    return f"{shape}, {describe(report)}\n\n{table(heads, rows)}"


def conformer_table(report: Mapping[str, Any]) -> str:
    """The table of Conformer layers."""
    rows = [
        (
            {"convolutions": "convolutions alone"}.get(name, name),
            f"{row['milliseconds']['median']:.0f}",
            f"{row['times_faster_than_dense']:.1f}x",
            f"{row['times_fewer_flops_than_dense']:.1f}x",
            f"{row['share_of_convolutions']:.0%}",
        )
        for name, row in report["results"].items()
    ]
    heads = ("layers", "ms", "speed-up", "FLOP ratio", "share of the convolution in latency")
    return table(heads, rows)


def conformer(report: Mapping[str, Any]) -> str:
    """Settings and table of Conformer layers."""
    shape = f"Random weights, {report['batch_size']} x {report['frames']} frames"
    return f"{shape}, {describe(report)}\n\n{conformer_table(report)}"


def soft_topk(report: Mapping[str, Any]) -> str:
    """Latency of the methods of soft top-k."""
    names = {"coor_descent": "coordinate descent, colt5-attention", "torch.topk": "`torch.topk`"}
    rows = [
        (
            names.get(name, name),
            {"forward": "forward", "forward_backward": "forward and backward"}[direction],
            f"{row['milliseconds']['median']:.2f}",
            f"{row['times_faster_than_baseline']['median']:.1f}x",
        )
        for direction, methods in report["results"].items()
        for name, row in methods.items()
    ]
    shape = f"Scores {report['shape']}, k = {report['top_k']}, {report['num_iterations']} rounds"
    return f"{shape}, {describe(report)}\n\n" + table(("method", "", "ms", "speed-up"), rows)
