"""Show which words of a text a conditional model worked on, and in how many of its layers.

A picture is a page: coloured words, headings and scales are written from top to bottom, in points,
and the page is cut to length at the end. Word widths come from the renderer that later draws them,
and the font is the one that matplotlib ships, so a page looks the same on every machine.

The colours run from almost white (no layer) to dark purple (every layer). ColorBrewer lists this
scale as safe for colour-blind readers; it grows darker all the way, in grey print too. A word is
black or white, whichever has the higher contrast with its background: that is never below 4.58:1
(the square root of 21), and 4.5:1 is what the accessibility guidelines WCAG 2.2 ask for.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from conditional_adapters.errors import ConfigError, RoutingError

if TYPE_CHECKING:
    import matplotlib.figure
    import matplotlib.font_manager

_COLORMAP = "BuPu"
_MISSING_GLYPH = "\N{WHITE SQUARE}"
_DPI = 200
_INCH = 72  # points

# In points. 7.2 inches is the text width of a two-column paper.
_PAGE_WIDTH = 7.2 * _INCH
_MARGIN = 14.0
_TEXT_WIDTH = _PAGE_WIDTH - 2 * _MARGIN

_MAX_TICKS = 12
# On the colour scale; a cell of a skipped token has to stand out from the white page.
_SKIPPED_AND_PROCESSED = (0.12, 0.85)
_MAX_COLUMNS = 64
_CELL = 7.1
_MAX_LABEL_LENGTH = 14

_RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class RoutedDocument:
    """A text whose words know how many layers processed them.

    Attributes:
        title: Heading of the document, for example `business: predicted business, gold sport`.
        words: The text, word by word; at least one.
        layer_counts: For each word the number of layers that processed it, from 0 to the number of
            layers. Fractions are welcome: they are means over the tokens of a word.
    """

    title: str
    words: Sequence[str]
    layer_counts: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.words) == 0:
            raise RoutingError(
                f"the document {self.title!r} has 0 words; it needs at least 1. "
                "Leave out empty documents."
            )
        if len(self.words) != len(self.layer_counts):
            raise RoutingError(
                f"the document {self.title!r} has {len(self.words)} words but "
                f"{len(self.layer_counts)} layer counts; there must be one count per word. "
                "Pair them with words_from_tokens."
            )


def words_from_tokens(
    offsets: Sequence[tuple[int, int]], text: str, layer_counts: Sequence[int]
) -> tuple[list[str], list[float]]:
    """Join tokens into the whitespace-separated words of a text and average their layer counts.

    A token belongs to every word with which it shares a character, so special tokens (offsets
    `(0, 0)`) belong to none. The count of a word is the mean over its tokens: a maximum would
    paint rare words dark merely because they fall into many pieces. A word without any token, as
    behind the point where the tokenizer truncated the text, is left out.

    Args:
        offsets: Start and end of each token as characters of `text`, as fast tokenizers return
            with `return_offsets_mapping=True`.
        text: The string that was tokenized.
        layer_counts: Number of layers that processed each token.

    Returns:
        The words that have tokens, in the order of the text, and the mean count of each.

    Raises:
        RoutingError: If the lengths disagree or an offset lies outside the text.
    """
    if len(offsets) != len(layer_counts):
        raise RoutingError(
            f"got {len(offsets)} offsets but {len(layer_counts)} layer counts; there must be one "
            "of each per token. Pass both for the same encoding, special tokens included."
        )
    matches = list(re.finditer(r"\S+", text))
    ends = [match.end() for match in matches]
    counts_of_word: list[list[int]] = [[] for _ in matches]
    for (start, end), count in zip(offsets, layer_counts, strict=True):
        if not 0 <= start <= end <= len(text):
            raise RoutingError(
                f"the token offset {(start, end)} must satisfy 0 <= start <= end <= {len(text)}, "
                "the length of the text. Pass the text that was tokenized."
            )
        word = bisect_right(ends, start)  # the first word that ends behind the start of the token
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
    """Draw documents as flowing text, each word coloured by the layers that processed it.

    Characters without a glyph in DejaVu Sans (Chinese, for example) appear as a white square.
    Save the figure at its own resolution: word widths are measured for it.

    Args:
        documents: What to draw, from top to bottom; at least one.
        num_layers: Number of layers that could have processed a word, >= 1; the end of the scale.
        caption: Text below the documents; none if empty.
        max_words: Words shown per document, >= 1. The rest is counted behind an ellipsis.

    Returns:
        A page 7.2 inches wide and as high as its content.

    Raises:
        ConfigError: If `num_layers` or `max_words` is less than 1.
        RoutingError: If there is no document or a count lies outside `[0, num_layers]`.
    """
    for name, value in {"num_layers": num_layers, "max_words": max_words}.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}. Raise {name}.")
    if not documents:
        raise RoutingError("got 0 documents; a token map needs at least 1. Pass a RoutedDocument.")
    for document in documents:
        _check_counts(document, num_layers)
    page = _Page()
    page.scale(f"layers that processed the word (of {num_layers})", num_layers)
    for document in documents:
        page.skip(13.0)
        page.write(_plain(document.title), _TITLE)
        page.skip(3.0)
        colours = _colours(count / num_layers for count in document.layer_counts[:max_words])
        words = [_Word(*pair) for pair in zip(document.words[:max_words], colours, strict=True)]
        hidden = len(document.words) - max_words
        if hidden > 0:
            words.append(_Word(f"\N{HORIZONTAL ELLIPSIS} {hidden} more word{'s'[: hidden > 1]}"))
        page.write(words, _BODY)
    return page.finish(caption)


def plot_layer_token_heatmap(
    selected: Bool[np.ndarray, "layers tokens"],
    labels: Sequence[str] | None = None,
    *,
    caption: str = "",
) -> "matplotlib.figure.Figure":
    """Draw which token was processed in which layer, wrapped like text every 64 tokens.

    Args:
        selected: True where a layer processed a token; at least one layer and one token. The
            first row is the layer nearest the input, drawn at the bottom as layer 1.
        labels: Name of each token; shortened to 14 characters. No names are drawn if None.
        caption: Text below the map; none if empty.

    Returns:
        A page 7.2 inches wide and as high as its content.

    Raises:
        RoutingError: If `selected` is not such an array or the number of labels is not its width.
    """
    if selected.ndim != 2 or selected.dtype != np.bool_ or not selected.size:
        raise RoutingError(
            f"selected has shape {selected.shape} and dtype {selected.dtype}; it must be a "
            "non-empty array [layers, tokens] of bool. Stack one row per layer."
        )
    num_tokens = selected.shape[1]
    names = [""] * num_tokens if labels is None else [_shorten(label) for label in labels]
    if len(names) != num_tokens:
        raise RoutingError(
            f"got {len(names)} labels for {num_tokens} tokens; there must be one per token. "
            "Pass all labels or None."
        )
    page = _Page()
    skipped, processed = _colours(_SKIPPED_AND_PROCESSED)
    page.write([_Word("processed by the layer", processed), _Word("skipped", skipped)], _BODY)
    for start in range(0, num_tokens, _MAX_COLUMNS):
        columns = slice(start, start + _MAX_COLUMNS)
        page.skip(8.0)
        page.grid(selected[:, columns], names[columns])
    return page.finish(caption)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Style:
    """How words are set: sizes and distances in points."""

    size: float
    ink: str = "black"  # of words without a background
    bold: bool = False
    padding: float = 0.0  # between a word and the sides of its background
    gap: float  # between words
    leading: float  # from line to line

    @property
    def font(self) -> "matplotlib.font_manager.FontProperties":
        from matplotlib.font_manager import FontProperties

        return FontProperties(fname=_font_file(bold=self.bold), size=self.size)

    def drawable(self, text: str) -> str:
        """Replace the characters that the font lacks, line breaks included."""
        known = _known_characters(bold=self.bold)
        return "".join(letter if ord(letter) in known else _MISSING_GLYPH for letter in text)


_TITLE = _Style(size=9.5, bold=True, gap=3.3, leading=13.5)
_BODY = _Style(size=8.5, ink="#595959", padding=1.7, gap=1.3, leading=13.8)
_CAPTION = _Style(size=8.0, ink="#404040", gap=2.6, leading=11.5)
_TICK = _Style(size=6.5, ink="#404040", gap=0.0, leading=9.0)


@dataclass(frozen=True)
class _Word:
    """A word to be drawn, on a coloured background or on the bare page."""

    text: str
    background: _RGB | None = None


class _Page:
    """A white page that is written from top to bottom and cut to length at the end.

    All coordinates are points from the top left corner. The cursor is the top of what comes next.
    """

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        self._figure = Figure(figsize=(_PAGE_WIDTH / _INCH, 1), dpi=_DPI, facecolor="white")
        self._renderer = FigureCanvasAgg(self._figure).get_renderer()
        self._upwards = Affine2D().scale(1 / _INCH, -1 / _INCH)  # lifted by the height at the end
        self._points = self._upwards + self._figure.dpi_scale_trans
        self._cursor = _MARGIN

    def skip(self, height: float) -> None:
        """Leave vertical space."""
        self._cursor += height

    def write(self, words: Iterable[_Word], style: _Style) -> None:
        """Set words in lines that end at the right margin."""
        x = _MARGIN
        for word in words:
            for piece in self._pieces(style.drawable(word.text), style):
                width = self._width(piece, style) + 2 * style.padding
                if x > _MARGIN and x + width > _PAGE_WIDTH - _MARGIN:
                    x = _MARGIN
                    self._cursor += style.leading
                self._word(piece, word.background, x, width, style)
                x += width + style.gap
        self._cursor += style.leading

    def scale(self, label: str, maximum: int) -> None:
        """Draw the colour scale from 0 to a maximum, with its label to the right."""
        width, height, steps = 170.0, 8.0, 256
        top, bottom = self._cursor, self._cursor + height
        # A grey frame around the pale end, half a point wide.
        self._box(_MARGIN - 0.5, top - 0.5, width + 1, height + 1, (0.6, 0.6, 0.6))
        for step, colour in enumerate(_colours(np.linspace(0, 1, steps))):
            # Each strip reaches to the right end: the next one covers it without a seam.
            x = width * step / steps
            self._box(_MARGIN + x, top, width - x, height, colour)
        stride = -(-maximum // _MAX_TICKS)
        for tick in [*range(0, maximum - stride + 1, stride), maximum]:
            self._text(str(tick), _MARGIN + width * tick / maximum, bottom + 2, _TICK, va="top")
        middle = (top + bottom) / 2
        self._text(label, _MARGIN + width + 9, middle, _CAPTION, ha="left", va="center")
        self._cursor = bottom + 2 + _TICK.leading

    def grid(self, selected: Bool[np.ndarray, "layers columns"], names: Sequence[str]) -> None:
        """Draw cells with layer numbers from the bottom and column names below."""
        layers, columns = selected.shape
        left, bottom, gap = _MARGIN + 24, self._cursor + layers * _CELL, 0.8
        skipped, processed = _colours(_SKIPPED_AND_PROCESSED)
        for layer, column in np.ndindex(layers, columns):
            x, y = left + column * _CELL + gap / 2, bottom - (layer + 1) * _CELL + gap / 2
            colour = processed if selected[layer, column] else skipped
            self._box(x, y, _CELL - gap, _CELL - gap, colour, rounding=0.8)
        middle = (self._cursor + bottom) / 2
        self._text("layer", _MARGIN, middle, _TICK, ha="left", va="center", rotation=90.0)
        for layer in range(layers):
            y = bottom - (layer + 0.5) * _CELL
            self._text(str(layer + 1), left - 3, y, _TICK, ha="right", va="center_baseline")
        for column, name in enumerate(names):
            x = left + (column + 0.5) * _CELL
            self._text(name, x, bottom + 2, _TICK, va="top", rotation=90.0)
        self._cursor = bottom + 2 + max(self._width(_TICK.drawable(name), _TICK) for name in names)

    def finish(self, caption: str) -> "matplotlib.figure.Figure":
        """Write the caption, cut the page below it and hand out the figure."""
        if caption:
            self.skip(9.0)
            self.write(_plain(caption), _CAPTION)
        height = (self._cursor + _MARGIN) / _INCH
        self._figure.set_size_inches(_PAGE_WIDTH / _INCH, height)
        self._upwards.translate(0, height)
        return self._figure

    def _pieces(self, text: str, style: _Style) -> Iterator[str]:
        """Cut a text where it is wider than a line."""
        limit = _TEXT_WIDTH - 2 * style.padding
        while text:
            fitting = bisect_right(
                range(1, len(text) + 1), limit, key=lambda n: self._width(text[:n], style)
            )
            yield text[: max(1, fitting)]
            text = text[max(1, fitting) :]

    def _width(self, text: str, style: _Style) -> float:
        """Measure a text as the renderer will draw it."""
        pixels, _, _ = self._renderer.get_text_width_height_descent(text, style.font, ismath=False)
        return float(pixels) * _INCH / _DPI

    def _word(
        self, text: str, background: _RGB | None, x: float, width: float, style: _Style
    ) -> None:
        """Draw a word whose line begins at the cursor, and its background."""
        baseline = self._cursor + style.size
        ink = style.ink
        if background is not None:
            ink = _readable_ink(background)
            top, height = baseline - 1.03 * style.size, 1.4 * style.size
            self._box(x, top, width, height, background, rounding=1.8)
        self._text(text, x + width / 2, baseline, style, ink=ink)

    def _box(
        self, x: float, y: float, width: float, height: float, colour: _RGB, rounding: float = 0.0
    ) -> None:
        """Fill a rectangle with round corners."""
        from matplotlib.patches import FancyBboxPatch

        box = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={rounding}",
            facecolor=colour,
            linewidth=0,
            transform=self._points,
        )
        self._figure.add_artist(box)

    def _text(
        self,
        text: str,
        x: float,
        y: float,
        style: _Style,
        *,
        ink: str | None = None,
        ha: str = "center",
        va: str = "baseline",
        rotation: float = 0.0,
    ) -> None:
        """Draw one line of text literally: no mathematics, no TeX."""
        self._figure.text(
            x,
            y,
            style.drawable(text),
            font=style.font,
            color=ink or style.ink,
            horizontalalignment=ha,
            verticalalignment=va,
            rotation=rotation,
            parse_math=False,
            usetex=False,
            transform=self._points,
        )


def _colours(fractions: Iterable[float]) -> list[_RGB]:
    """Look up colours for fractions in [0, 1]."""
    from matplotlib import colormaps

    colormap = colormaps[_COLORMAP]
    return [colormap(float(fraction))[:3] for fraction in fractions]


def _readable_ink(background: _RGB) -> str:
    """Choose black or white, whichever has the higher contrast ratio by WCAG 2.2."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    on_white_ink, on_black_ink = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05
    return "black" if on_black_ink >= on_white_ink else "white"


@cache
def _font_file(*, bold: bool) -> Path:
    """Find the font that matplotlib ships, not a system font of the same name."""
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf")


@cache
def _known_characters(*, bold: bool) -> frozenset[int]:
    """List the code points for which the font has a glyph."""
    from matplotlib.font_manager import get_font

    return frozenset(get_font(_font_file(bold=bold)).get_charmap())


def _plain(text: str) -> list[_Word]:
    """Split a text into words without backgrounds."""
    return [_Word(word) for word in text.split()]


def _shorten(label: str) -> str:
    """Cut a label to a length that fits below a cell."""
    if len(label) <= _MAX_LABEL_LENGTH:
        return label
    return label[: _MAX_LABEL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _check_counts(document: RoutedDocument, num_layers: int) -> None:
    for word, count in zip(document.words, document.layer_counts, strict=True):
        if not 0 <= count <= num_layers:
            raise RoutingError(
                f"the word {word!r} of the document {document.title!r} has layer count {count}; "
                f"it must lie between 0 and num_layers = {num_layers}. "
                "Count only layers that can be skipped, or raise num_layers."
            )
