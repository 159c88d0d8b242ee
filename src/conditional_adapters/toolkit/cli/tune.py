"""`coda tune`: choose r for a data set by quality and speed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...checkpoint.atomic import replace_file, replace_text
from ...checkpoint.save_load import set_saved_reduction_factor
from ...hub.measurements import Measurement
from ...hub.model_card import record_measurements, write_model_card
from ..assets import find_adapter
from ..tasks.bundle import load_trained_task
from ..tasks.kinds import find_task
from ..tasks.task_data import load_task_rows
from ..tasks.tuning import FactorCurve, FactorMeasurement, factors_to_measure, measure_factors
from ..visualisation import plot_quality_curve
from . import _options as options
from ._console import format_p_value, messages, print_json, print_table


def tune(
    context: typer.Context,
    adapter: options.Adapter,
    data: options.Data,
    max_drop: Annotated[
        float,
        typer.Option(min=0, max=100, help="Allowed loss against the reference, in points."),
    ] = 0.5,
    reduction_factor: options.FactorList = None,
    write: Annotated[
        bool,
        typer.Option("--write/--no-write", help="Save the chosen r as the adapter's default."),
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder for the table (tune.json) and the curve (tune.png).")
    ] = Path("runs/tune"),
    batch_size: options.BatchSize = 32,
    timing_batch: Annotated[
        int, typer.Option(min=1, help="Batch size of the timing; the longest examples are timed.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=3, help="Timed forward passes per r.")] = 15,
    text_column: options.TextColumn = "text",
    image_column: options.ImageColumn = "image",
    label_column: options.LabelColumn = "label",
    column: options.Columns = None,
    split: options.Split = None,
    on_bad_row: options.OnBadRow = "stop",
    limit: options.Limit = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure quality and speed for several r, and choose the largest r that is good enough.

    Quality is accuracy for classification, the word error rate for speech, F1 for entities and
    answers, ROUGE-L for summaries. The smallest r is the reference. The command chooses the largest
    r that loses at most --max-drop points. By default, an elastic adapter is measured at the r it
    was trained with, any other at 1, 2, 3, 4, 5, 8 and 16. Use validation data, not test data.
    """
    folder = options.folder_to_write(adapter) if write else find_adapter(adapter)
    task = load_trained_task(folder)
    factors = options.parse_factor_list(reduction_factor) or factors_to_measure(task)
    spec = options.data_spec(context)
    rows = load_task_rows(find_task(task.name), spec, labels=task.labels or None)
    curve = measure_factors(
        task,
        rows,
        factors,
        batch_size=batch_size,
        timing_batch=timing_batch,
        rounds=rounds,
        show_progress=True,
    )
    chosen = curve.choose(max_drop=max_drop)
    is_written = write and chosen is not None
    if write and chosen is not None:
        set_saved_reduction_factor(folder, chosen.reduction_factor)
        write_model_card(folder)
        record_measurements(
            folder, _measurements(curve, options.command_line(context), data, split)
        )
    report = {
        "adapter": str(adapter),
        "data": data,
        "rows": curve.num_rows,
        "timed_batch": list(curve.batch_shape),
        "metric": curve.quality.name,
        "lower_is_better": curve.quality.is_error,
        "max_drop": max_drop,
        "reference": curve.reference.reduction_factor,
        "chosen": None if chosen is None else chosen.reduction_factor,
        "written": is_written,
        "measurements": [asdict(measurement) for measurement in curve.measurements],
    }
    output.mkdir(parents=True, exist_ok=True)
    replace_text(output / "tune.json", json.dumps(report, indent=2) + "\n")
    title = f"{adapter} on {curve.num_rows:,} rows of {data}"
    figure = plot_quality_curve(
        [m.reduction_factor for m in curve.measurements],
        [m.metrics[curve.quality.name] for m in curve.measurements],
        [m.speed_up for m in curve.measurements],
        [m.flop_ratio for m in curve.measurements],
        metric=curve.quality.name,
        is_error=curve.quality.is_error,
        intervals=[m.difference_interval for m in curve.measurements],
        max_drop=max_drop,
        chosen=None if chosen is None else chosen.reduction_factor,
        caption=title,
    )
    replace_file(output / "tune.png", lambda path: figure.savefig(path, format="png"))
    if as_json:
        print_json(report)
    else:
        shape = " x ".join(map(str, curve.batch_shape))
        print_table(f"{title}, timed on {shape}", [_format(curve, m) for m in curve.measurements])
    messages.print(f"picture: {output / 'tune.png'}")
    messages.print(_verdict(curve, chosen, max_drop), markup=False)
    if is_written:
        messages.print(f"written: it is the default of {adapter} now")
    elif write:
        messages.print(f"nothing written: {adapter} is unchanged")


def _measurements(
    curve: FactorCurve, command: str, data: str, split: str | None
) -> list[Measurement]:
    return [
        Measurement(
            command=command,
            data=data,
            part=split,
            rows=curve.num_rows,
            reduction_factor=m.reduction_factor,
            metrics=m.metrics,
            speed_up=m.speed_up,
            reference_factor=curve.reference.reduction_factor,
            timed_batch=curve.batch_shape,
        )
        for m in curve.measurements
    ]


def _verdict(curve: FactorCurve, chosen: FactorMeasurement | None, max_drop: float) -> str:
    """Sentences on the chosen r and its uncertainty."""
    reference = f"r = {curve.reference.reduction_factor:g}"
    if chosen is None:
        return (
            f"no r qualifies: every r above the reference {reference} loses more than {max_drop:g} "
            f"points of {curve.quality.name}. Increase --max-drop, measure smaller values of -r, "
            "or train longer."
        )
    verdict = (
        f"chosen: r = {chosen.reduction_factor:g}, the largest at most {max_drop:g} points "
        f"{'above' if curve.quality.is_error else 'below'} the reference {reference}"
    )
    loss = max(map(curve.points_lost, chosen.difference_interval))
    if not chosen.num_differing:
        verdict += (
            f"\nnone of {curve.num_rows:,} rows differs; with 95 % confidence, at most "
            f"{3 / curve.num_rows:.1%} of all rows do"  # the rule of three
        )
    elif loss > max_drop:
        verdict += (
            f"\n{curve.num_rows:,} rows do not prove it: the true loss may be up to {loss:.1f} "
            "points (95 % interval). Use more rows for a narrower interval."
        )
    return verdict


def _format(curve: FactorCurve, measurement: FactorMeasurement) -> dict[str, str]:
    difference, p_value = "reference", ""
    if measurement is not curve.reference:
        low, high = (100 * end for end in measurement.difference_interval)
        difference = f"{100 * measurement.difference:+.1f} ({low:+.1f} to {high:+.1f})"
        p_value = "" if measurement.p_value is None else format_p_value(measurement.p_value)
    return {
        "r": f"{measurement.reduction_factor:g}",
        curve.quality.name: f"{measurement.metrics[curve.quality.name]:.2%}",
        "difference (95 %)": difference,
        **({} if measurement.p_value is None else {"McNemar": p_value}),
        "batch": f"{measurement.seconds * 1e3:.1f} ms",
        "speed-up": f"{measurement.speed_up:.2f}x",
        "FLOP ratio": f"{measurement.flop_ratio:.2f}x",
    }
