"""A white page for pictures of routing: words, scales and grids, set from top to bottom.

Everything is placed in points and the page is cut to length at the end. Word widths come from the
renderer that later draws them, and the font is the one that matplotlib ships, so a page looks the
same on every machine. Nothing here knows what the colours mean.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from ._colours import RGB, SKIPPED_AND_PROCESSED, palette, readable_ink

if TYPE_CHECKING:
    import matplotlib.figure
    import matplotlib.font_manager

_MISSING_GLYPH = "\N{WHITE SQUARE}"
_DPI = 200
_INCH = 72  # points

# In points. 7.2 inches is the text width of a two-column paper.
_PAGE_WIDTH = 7.2 * _INCH
_MARGIN = 14.0
_TEXT_WIDTH = _PAGE_WIDTH - 2 * _MARGIN

_MAX_TICKS = 12
_CELL = 7.1
_MAX_PICTURE = 240.0
_STRIP_HEIGHT = 64.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
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


TITLE = Style(size=9.5, bold=True, gap=3.3, leading=13.5)
BODY = Style(size=8.5, ink="#595959", padding=1.7, gap=1.3, leading=13.8)
CAPTION = Style(size=8.0, ink="#404040", gap=2.6, leading=11.5)
TICK = Style(size=6.5, ink="#404040", gap=0.0, leading=9.0)


@dataclass(frozen=True)
class Word:
    """A word to be drawn, on a coloured background or on the bare page."""

    text: str
    background: RGB | None = None


class Page:
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

    def write(self, words: Iterable[Word], style: Style) -> None:
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
        for step, colour in enumerate(palette(np.linspace(0, 1, steps))):
            # Each strip reaches to the right end: the next one covers it without a seam.
            x = width * step / steps
            self._box(_MARGIN + x, top, width - x, height, colour)
        stride = -(-maximum // _MAX_TICKS)
        for tick in [*range(0, maximum - stride + 1, stride), maximum]:
            self._text(str(tick), _MARGIN + width * tick / maximum, bottom + 2, TICK, va="top")
        middle = (top + bottom) / 2
        self._text(label, _MARGIN + width + 9, middle, CAPTION, ha="left", va="center")
        self._cursor = bottom + 2 + TICK.leading

    def grid(self, selected: Bool[np.ndarray, "layers columns"], names: Sequence[str]) -> None:
        """Draw cells with layer numbers from the bottom and column names below."""
        layers, columns = selected.shape
        left, bottom, gap = _MARGIN + 24, self._cursor + layers * _CELL, 0.8
        skipped, processed = palette(SKIPPED_AND_PROCESSED)
        for layer, column in np.ndindex(layers, columns):
            x, y = left + column * _CELL + gap / 2, bottom - (layer + 1) * _CELL + gap / 2
            colour = processed if selected[layer, column] else skipped
            self._box(x, y, _CELL - gap, _CELL - gap, colour, rounding=0.8)
        middle = (self._cursor + bottom) / 2
        self._text("layer", _MARGIN, middle, TICK, ha="left", va="center", rotation=90.0)
        for layer in range(layers):
            y = bottom - (layer + 0.5) * _CELL
            self._text(str(layer + 1), left - 3, y, TICK, ha="right", va="center_baseline")
        for column, name in enumerate(names):
            x = left + (column + 0.5) * _CELL
            self._text(name, x, bottom + 2, TICK, va="top", rotation=90.0)
        self._cursor = bottom + 2 + max(self._width(TICK.drawable(name), TICK) for name in names)

    def pictures(self, pictures: Sequence[UInt8[np.ndarray, "height width 3"]]) -> None:
        """Set pictures side by side, equally wide."""
        gap = 10.0
        width = min((_TEXT_WIDTH - gap * (len(pictures) - 1)) / len(pictures), _MAX_PICTURE)
        height = max(width * len(picture) / picture.shape[1] for picture in pictures)
        for column, picture in enumerate(pictures):
            left = _MARGIN + column * (width + gap)
            self._picture(picture, left, width, width * len(picture) / picture.shape[1])
        self._cursor += height

    def strip(
        self, picture: UInt8[np.ndarray, "height width 3"], ticks: Sequence[tuple[str, float]]
    ) -> None:
        """Stretch a picture over the whole width, above ticks that are placed in [0, 1]."""
        self._picture(picture, _MARGIN, _TEXT_WIDTH, _STRIP_HEIGHT)
        self._cursor += _STRIP_HEIGHT + 2
        for name, place in ticks:
            self._text(name, _MARGIN + place * _TEXT_WIDTH, self._cursor, TICK, va="top")
        self._cursor += TICK.leading if ticks else 0

    def finish(self, caption: str) -> "matplotlib.figure.Figure":
        """Write the caption, cut the page below it and hand out the figure."""
        if caption:
            self.skip(9.0)
            self.write(plain_words(caption), CAPTION)
        height = (self._cursor + _MARGIN) / _INCH
        self._figure.set_size_inches(_PAGE_WIDTH / _INCH, height)
        self._upwards.translate(0, height)
        return self._figure

    def _picture(
        self, picture: UInt8[np.ndarray, "height width 3"], left: float, width: float, height: float
    ) -> None:
        """Draw a picture below the cursor."""
        from matplotlib.image import BboxImage
        from matplotlib.transforms import Bbox, TransformedBbox

        corners = Bbox([[left, self._cursor], [left + width, self._cursor + height]])
        image = BboxImage(TransformedBbox(corners, self._points), interpolation="nearest")
        image.set_data(picture)
        self._figure.add_artist(image)

    def _pieces(self, text: str, style: Style) -> Iterator[str]:
        """Cut a text where it is wider than a line."""
        limit = _TEXT_WIDTH - 2 * style.padding
        while text:
            fitting = bisect_right(
                range(1, len(text) + 1), limit, key=lambda n: self._width(text[:n], style)
            )
            yield text[: max(1, fitting)]
            text = text[max(1, fitting) :]

    def _width(self, text: str, style: Style) -> float:
        """Measure a text as the renderer will draw it."""
        pixels, _, _ = self._renderer.get_text_width_height_descent(text, style.font, ismath=False)
        return float(pixels) * _INCH / _DPI

    def _word(
        self, text: str, background: RGB | None, x: float, width: float, style: Style
    ) -> None:
        """Draw a word whose line begins at the cursor, and its background."""
        baseline = self._cursor + style.size
        ink = style.ink
        if background is not None:
            ink = readable_ink(background)
            top, height = baseline - 1.03 * style.size, 1.4 * style.size
            self._box(x, top, width, height, background, rounding=1.8)
        self._text(text, x + width / 2, baseline, style, ink=ink)

    def _box(
        self, x: float, y: float, width: float, height: float, colour: RGB, rounding: float = 0.0
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
        style: Style,
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


def plain_words(text: str) -> list[Word]:
    """Split a text into words without backgrounds."""
    return [Word(word) for word in text.split()]
