"""A page of fixed width that is filled from top to bottom: coloured words, and axes for images.

The packers of `matplotlib.offsetbox` place the words. The height of the figure follows from its
content.
"""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ._colours import RGB, palette, readable_ink, scale_ticks

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.offsetbox

# In points. 7.2 inches is the text width of a two-column paper.
_PAGE_WIDTH, _MARGIN = 7.2 * 72, 14.0
WIDTH = _PAGE_WIDTH - 2 * _MARGIN
_DPI = 200
_WIDEST_LETTER = 1.12  # in font sizes
_MISSING_GLYPH = "\N{WHITE SQUARE}"
_PADDING = "\N{FIGURE SPACE}"

Style = dict[str, Any]  # properties of a `matplotlib.text.Text`
# Independent of the user's settings; "$" is a dollar sign.
_TEXT: Style = {"family": "DejaVu Sans", "parse_math": False, "usetex": False}
TITLE: Style = _TEXT | {"size": 9.5, "weight": "bold", "color": "black"}
BODY: Style = _TEXT | {"size": 8.5, "weight": "normal", "color": "#595959"}
CAPTION: Style = BODY | {"size": 8.0, "color": "#404040"}
TICK: Style = CAPTION | {"size": 6.5}


class Page:
    """A figure that grows downwards; sizes are in points."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(_PAGE_WIDTH / 72, 1), dpi=_DPI, facecolor="white")
        self._renderer = FigureCanvasAgg(self._figure).get_renderer()
        self._blocks: list[tuple[float, float, float, Callable[[Any], object]]] = []
        self._height = _MARGIN

    def skip(self, height: float) -> None:
        """Leave vertical space."""
        self._height += height

    def draw(
        self, height: float, draw: Callable[["matplotlib.axes.Axes"], object], *, indent: float = 0
    ) -> None:
        """Reserve axes of this height; `draw` fills them when the page is finished."""
        self._blocks.append((indent, self._height, height, draw))
        self.skip(height)

    def write(self, words: Iterable[str], style: Style, colours: Iterable[RGB] = ()) -> None:
        """Write words in lines, the first ones on backgrounds of these colours."""
        from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, VPacker

        colours = list(colours)
        gap = style["size"] * (0.53 if colours else 0.33)
        letters = int(WIDTH / (_WIDEST_LETTER * style["size"]))  # of a word on one line
        lines: list[list[Any]] = []
        used = WIDTH
        for word, colour in zip_longest(words, colours):
            for start in range(0, len(word), letters):
                piece = self._text(word[start : start + letters], style, colour)
                width = self._points(piece)[0]
                if used + width > WIDTH:
                    lines.append([])
                    used = 0
                lines[-1].append(piece)
                used += width + gap
        rows: list[Any] = [HPacker(children=line, pad=0, sep=gap) for line in lines]
        text = VPacker(children=rows, pad=0, sep=0.5 * style["size"], align="left")
        text.set_figure(self._figure)
        box = AnchoredOffsetbox("upper left", child=text, pad=0, borderpad=0, frameon=False)

        def place(axes: "matplotlib.axes.Axes") -> None:
            axes.set_axis_off()
            axes.add_artist(box)

        self.draw(self._points(text)[1], place)

    def scale(self, label: str, maximum: int) -> None:
        """Write the colour scale from 0 to a maximum, followed by its label."""
        ticks = scale_ticks(maximum)
        colours = palette(tick / maximum for tick in ticks)
        self.write(
            [*(f"\N{FIGURE SPACE}{tick}\N{FIGURE SPACE}" for tick in ticks), label], BODY, colours
        )

    def width(self, text: str, style: Style) -> float:
        """Measure a text as the renderer will draw it."""
        return self._points(self._text(text, style))[0]

    def finish(self, caption: str) -> "matplotlib.figure.Figure":
        """Write the caption, set the height of the figure and draw all blocks."""
        if caption:
            self.skip(9)
            self.write(caption.split(), CAPTION)
        page_height = self._height + _MARGIN
        self._figure.set_size_inches(_PAGE_WIDTH / 72, page_height / 72)
        for indent, top, height, draw in self._blocks:
            left, bottom = (_MARGIN + indent) / _PAGE_WIDTH, 1 - (top + height) / page_height
            size = ((WIDTH - indent) / _PAGE_WIDTH, height / page_height)
            axes = self._figure.add_axes((left, bottom, *size))
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0, pad=2)
            draw(axes)
        return self._figure

    def _text(self, text: str, style: Style, colour: RGB | None = None) -> Any:  # noqa: ANN401
        from matplotlib.offsetbox import TextArea

        if colour is not None:
            box = {"boxstyle": "round,pad=0.17,rounding_size=0.2", "fc": colour, "lw": 0}
            style = {**style, "color": readable_ink(colour), "bbox": box}
        area = TextArea(drawable(text, style), textprops=style)
        area.set_figure(self._figure)
        return area

    def _points(self, box: "matplotlib.offsetbox.OffsetBox") -> tuple[float, float]:
        """Width and height of a box."""
        extent = box.get_bbox(self._renderer)
        return extent.width * 72 / _DPI, extent.height * 72 / _DPI


def drawable(text: str, style: Style) -> str:
    """Replace the characters that the font lacks, line breaks included."""
    known = _known_characters(style["family"], style["weight"])
    return "".join(letter if ord(letter) in known else _MISSING_GLYPH for letter in text)


@cache
def _known_characters(family: str, weight: str) -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(
        get_font(findfont(FontProperties(family=[family], weight=weight))).get_charmap()
    )
