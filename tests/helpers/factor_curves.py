"""Rows to measure quality over r on, and curves with known values."""

import random

import datasets

from conditional_adapters.toolkit.tasks.task import Quality
from conditional_adapters.toolkit.tasks.tuning import FactorCurve, FactorMeasurement

from .tiny_classifiers import LABELS


def text_rows(number=40, lengths=(3, 28)):
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices([f"w{i}" for i in range(40)], k=rng.randint(*lengths)))
        for _ in range(number)
    ]
    labels = [rng.randrange(3) for _ in texts]
    dataset = datasets.Dataset.from_dict({"text": texts, "label": labels})
    return dataset.cast_column("label", datasets.ClassLabel(names=list(LABELS)))


def curve_of(*right: int, of: int = 1000, is_error: bool = False) -> FactorCurve:
    """Make a curve at r = 1, 2, 4, ... from numbers of right, or of wrong rows."""
    quality = Quality(name="wer" if is_error else "accuracy", is_error=is_error)
    return FactorCurve(
        measurements=tuple(
            FactorMeasurement(
                reduction_factor=2**index,
                metrics={quality.name: number / of},
                difference=(number - right[0]) / of,
                difference_interval=(0, 0),
                p_value=1,
                num_differing=1,
                seconds=1,
                speed_up=1,
                flop_ratio=1,
            )
            for index, number in enumerate(right)
        ),
        quality=quality,
        num_rows=of,
        batch_shape=(8, 64),
    )
