"""Pictures of the number of layers that processed each word, and of layers by tokens."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from ...errors import ConfigError, RoutingError
from ._colours import RGB, SKIPPED_AND_PROCESSED, palette
from ._page import BODY, TICK, TITLE, WIDTH, Page, drawable

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_MAX_COLUMNS = 64
_MAX_LABEL_LENGTH = 14
_CELL = 7.1  # points


@dataclass(frozen=True, kw_only=True)
class RoutedDocument:
    """A text with the number of layers that processed each word.

    Attributes:
        title: Title of the document, for example `business: predicted business, gold sport`.
        words: Words of the text; at least one.
        layer_counts: Number of layers that processed each word, from 0 to the number of layers.
            Means over the tokens of a word may be fractions.
    """

    title: str
    words: Sequence[str]
    layer_counts: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.words) == 0:
            raise RoutingError(
                f"The document {self.title!r} has 0 words; it needs at least 1. "
                "Leave out empty documents."
            )
        if len(self.words) != len(self.layer_counts):
            raise RoutingError(
                f"The document {self.title!r} has {len(self.words)} words but "
                f"{len(self.layer_counts)} layer counts; it needs one count per word. "
                "Make both with words_from_tokens."
            )


def words_from_tokens(
    offsets: Sequence[tuple[int, int]], text: str, layer_counts: Sequence[int]
) -> tuple[list[str], list[float]]:
    """Average the layer counts of tokens over the whitespace-separated words of a text.

    A token belongs to every word with which it shares a character; special tokens (offsets
    `(0, 0)`) belong to none. The count of a word is the mean over its tokens, as a maximum would be
    higher for rare words with many tokens. Words without tokens are left out, such as truncated
    ones.

    Args:
        offsets: Start and end of each token in `text`, from a fast tokenizer with
            `return_offsets_mapping=True`.
        text: The tokenized string.
        layer_counts: Number of layers that processed each token.

    Returns:
        The words that have tokens, in order, and the mean count of each.

    Raises:
        RoutingError: If the lengths differ or an offset is outside the text.
    """
    if len(offsets) != len(layer_counts):
        raise RoutingError(
            f"Got {len(offsets)} offsets but {len(layer_counts)} layer counts; each token needs "
            "one of each. Pass both for the same encoding, including special tokens."
        )
    matches = list(re.finditer(r"\S+", text))
    ends = [match.end() for match in matches]
    counts_of_word: list[list[int]] = [[] for _ in matches]
    for (start, end), count in zip(offsets, layer_counts, strict=True):
        if not 0 <= start <= end <= len(text):
            raise RoutingError(
                f"The token offset {(start, end)} must satisfy 0 <= start <= end <= {len(text)}, "
                "the length of the text. Pass the tokenized text."
            )
        word = bisect_right(ends, start)  # first word that ends after the start of the token
        while word < len(matches) and matches[word].start() < end:
            counts_of_word[word].append(count)
            word += 1
    shown = [(match.group(), c) for match, c in zip(matches, counts_of_word, strict=True) if c]
    return [word for word, _ in shown], [sum(counts) / len(counts) for _, counts in shown]


def plot_token_map(
    documents: Sequence[RoutedDocument],
    *,
    num_layers: int,
    caption: str = "",
    max_words: int = 180,
) -> "matplotlib.figure.Figure":
    """Draw documents with words coloured by the number of layers that processed them.

    Characters that DejaVu Sans lacks (such as Chinese ones) appear as white squares. Save the
    figure at its own resolution, for which word widths are measured.

    Args:
        documents: Documents from top to bottom; at least one.
        num_layers: Number of layers that can skip tokens, >= 1; the end of the scale.
        caption: Text below the documents; none if empty.
        max_words: Maximum number of words per document, >= 1. An ellipsis gives the number of
            hidden words.

    Returns:
        A figure 7.2 inches wide and as high as its content.

    Raises:
        ConfigError: If `num_layers` or `max_words` is less than 1.
        RoutingError: If there is no document or a count is outside `[0, num_layers]`.
    """
    for name, value in {"num_layers": num_layers, "max_words": max_words}.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}. Increase it.")
    if not documents:
        raise RoutingError(
            "A token map needs at least 1 document, got 0 documents. Pass a RoutedDocument."
        )
    for document in documents:
        _check_counts(document, num_layers)
    page = Page()
    page.scale(f"layers that processed the word (of {num_layers})", num_layers)
    for document in documents:
        page.skip(13)
        page.write(document.title.split(), TITLE)
        page.skip(6)
        colours = palette(count / num_layers for count in document.layer_counts[:max_words])
        words = list(document.words[:max_words])
        hidden = len(document.words) - max_words
        if hidden > 0:
            words.append(f"\N{HORIZONTAL ELLIPSIS} {hidden} more word{'s'[: hidden > 1]}")
        page.write(words, BODY, colours)
    return page.finish(caption)


def plot_layer_token_heatmap(
    selected: Bool[np.ndarray, "layers tokens"],
    labels: Sequence[str] | None = None,
    *,
    caption: str = "",
) -> "matplotlib.figure.Figure":
    """Draw layers by tokens, wrapped every 64 tokens.

    Args:
        selected: True where a layer processed a token; at least one layer and one token. The
            first row is the layer nearest the input, drawn at the bottom as layer 1.
        labels: Name of each token, shortened to 14 characters; none if None.
        caption: Text below the map; none if empty.

    Returns:
        A figure 7.2 inches wide and as high as its content.

    Raises:
        RoutingError: If `selected` is not such an array or the number of labels is not its width.
    """
    if selected.ndim != 2 or selected.dtype != np.bool_ or not selected.size:
        raise RoutingError(
            f"`selected` has shape {selected.shape} and dtype {selected.dtype}; it must be a "
            "non-empty array [layers, tokens] of bool. Stack one row per layer."
        )
    num_tokens = selected.shape[1]
    names = [""] * num_tokens if labels is None else [_shorten(label) for label in labels]
    if len(names) != num_tokens:
        raise RoutingError(
            f"Got {len(names)} labels for {num_tokens} tokens; each token needs one. "
            "Pass all labels or None."
        )
    page = Page()
    colours = palette(SKIPPED_AND_PROCESSED)
    page.write(["processed by the layer", "skipped"], BODY, colours[::-1])
    for start in range(0, num_tokens, _MAX_COLUMNS):
        columns = slice(start, start + _MAX_COLUMNS)
        page.skip(8)
        page.draw(
            _CELL * len(selected),
            partial(_draw_cells, selected[:, columns], names[columns], colours),
            indent=WIDTH - _CELL * _MAX_COLUMNS,
        )
        page.skip(2 + max(page.width(name, TICK) for name in names[columns]))
    return page.finish(caption)


def _draw_cells(
    selected: Bool[np.ndarray, "layers columns"],
    names: Sequence[str],
    colours: Sequence[RGB],
    axes: "matplotlib.axes.Axes",
) -> None:
    from matplotlib.colors import ListedColormap

    layers, columns = selected.shape
    scale: dict[str, Any] = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": 1}
    axes.pcolormesh(selected, edgecolors="white", linewidth=0.8, **scale)
    axes.set_xlim(0, _MAX_COLUMNS)
    names = [drawable(name, TICK) for name in names]
    axes.set_xticks(np.arange(columns) + 0.5, names, rotation=90, **TICK)
    axes.set_yticks(np.arange(layers) + 0.5, map(str, range(1, layers + 1)), **TICK)
    axes.set_ylabel("layer", **TICK)


def _shorten(label: str) -> str:
    if len(label) <= _MAX_LABEL_LENGTH:
        return label
    return label[: _MAX_LABEL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _check_counts(document: RoutedDocument, num_layers: int) -> None:
    for word, count in zip(document.words, document.layer_counts, strict=True):
        if not 0 <= count <= num_layers:
            raise RoutingError(
                f"The word {word!r} of the document {document.title!r} has layer count {count}; "
                f"it must be between 0 and num_layers = {num_layers}. "
                "Count only layers that can skip tokens, or increase num_layers."
            )
