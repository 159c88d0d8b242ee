"""Colours for how many layers processed something.

They run from almost white to dark purple. ColorBrewer lists this scale as safe for colour-blind
readers; it grows darker all the way, in grey print too. A word is black or white, whichever has the
higher contrast with its background: that is never below 4.58:1 (the square root of 21), and 4.5:1
is what the accessibility guidelines WCAG 2.2 ask for.
"""

from collections.abc import Iterable

_COLORMAP = "BuPu"
# On the scale; a cell of a skipped token has to stand out from the white page.
SKIPPED_AND_PROCESSED = (0.12, 0.85)
_MAX_STEPS = 12

RGB = tuple[float, float, float]


def palette(fractions: Iterable[float], colormap_name: str = _COLORMAP) -> list[RGB]:
    """Look up colours for fractions in [0, 1]."""
    from matplotlib import colormaps

    colormap = colormaps[colormap_name]
    return [colormap(float(fraction))[:3] for fraction in fractions]


def readable_ink(background: RGB) -> str:
    """Choose black or white, whichever has the higher contrast ratio by WCAG 2.2."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    on_white_ink, on_black_ink = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05
    return "black" if on_black_ink >= on_white_ink else "white"


def scale_ticks(maximum: int) -> list[int]:
    """Choose at most 13 numbers from 0 to a maximum in even steps, except for the last one."""
    stride = -(-maximum // _MAX_STEPS)
    return [*range(0, maximum - stride + 1, stride), maximum]
