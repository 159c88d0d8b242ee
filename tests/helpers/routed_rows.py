"""Rows with made-up routing, to be drawn."""

from dataclasses import replace

import numpy as np

from conditional_adapters.toolkit.visualisation import (
    RoutedDocument,
    RoutedImage,
    RoutedRow,
    RoutedRun,
)

LABELS = ("cat", "<script>alert('class')</script>", "owl")
NASTY = ["<script>alert(1)</script>", "&amp;", "</script>", "\"quoted'", "{{", "%}", "plain"]
LAYERS = 4


def pictured(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 18, 3), dtype=np.uint8)


def text_row(words=NASTY, *, factors=(2, 4, 8), num_cut_words=0, labels=LABELS) -> RoutedRow:
    """Make a text of one token per word, whose routing differs from factor to factor."""

    def view(processed, factor):
        counts = processed[[0, 1, 3]].sum(0).astype(float)
        return RoutedDocument(title=f"r = {factor}", words=words, layer_counts=counts.tolist())

    return _row(len(words), words, factors, labels, view, num_cut_words)


def image_row(*, factors=(2, 4, 8), labels=LABELS) -> RoutedRow:
    """Make an image of 2 x 3 patches behind one prefix token."""

    def view(processed, factor):
        counts = processed[[0, 1, 3], 1:].sum(0).reshape(2, 3).astype(float)
        return RoutedImage(title=f"r = {factor}", pixels=pictured(), layer_counts=counts)

    return _row(7, [""] * 7, factors, labels, view, 0)


def sound_row(*, factors=(2, 4, 8)) -> RoutedRow:
    """Make a recording of seven moments, of which the last run is heard as the dense one."""

    def view(processed, factor):
        counts = processed[[0, 1, 3]].sum(0, keepdims=True).astype(float)
        return RoutedImage(
            title=f"r = {factor}", pixels=pictured(), layer_counts=counts, seconds=0.14
        )

    row = _row(7, [""] * 7, factors, LABELS, view, 0)
    heard = [f"</p>heard at {factor}" for factor in factors[:-1]] + ["<b>heard</b>"]
    runs = [
        replace(run, probabilities=(), transcript=text)
        for run, text in zip(row.runs, heard, strict=True)
    ]
    return replace(
        row, gold="<i>said</i>", dense_probabilities=(), dense_transcript=heard[-1], runs=runs
    )


def _row(num_tokens, tokens, factors, labels, view, num_cut_words) -> RoutedRow:
    rng = np.random.default_rng(num_tokens)
    runs = []
    for factor in factors:
        processed = rng.random((LAYERS, num_tokens)) < 1 / factor
        processed[2] = True  # dense
        runs.append(
            RoutedRun(
                reduction_factor=factor,
                probabilities=rng.dirichlet(np.ones(len(labels))).tolist(),
                processed=processed,
                view=view(processed, factor),
            )
        )
    return RoutedRow(
        heading="Row <1>",
        gold=labels[1],
        tokens=tokens,
        is_routed=[True, True, False, True],
        dense_probabilities=rng.dirichlet(np.ones(len(labels))).tolist(),
        runs=runs,
        num_cut_words=num_cut_words,
    )
