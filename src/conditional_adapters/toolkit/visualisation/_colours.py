"""Colours for the number of layers that processed something.

They run from almost white to dark purple, on a ColorBrewer scale that is safe for colour-blind
readers and monotonic in lightness. Words are black or white, whichever has the higher contrast with
its background: at least 4.58:1 (the square root of 21), where WCAG 2.2 asks for 4.5:1.
"""

from collections.abc import Iterable

_COLORMAP = "BuPu"
# Positions on the scale; cells of skipped tokens must stand out from the white page.
SKIPPED_AND_PROCESSED = (0.12, 0.85)
_MAX_STEPS = 12

RGB = tuple[float, float, float]


def palette(fractions: Iterable[float], colormap_name: str = _COLORMAP) -> list[RGB]:
    """Colours of fractions in [0, 1]."""
    from matplotlib import colormaps

    colormap = colormaps[colormap_name]
    return [colormap(float(fraction))[:3] for fraction in fractions]


def readable_ink(background: RGB) -> str:
    """Black or white, whichever has the higher contrast by WCAG 2.2."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    on_white_ink, on_black_ink = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05
    return "black" if on_black_ink >= on_white_ink else "white"


def scale_ticks(maximum: int) -> list[int]:
    """At most 13 numbers from 0 to a maximum, in even steps except for the last."""
    stride = -(-maximum // _MAX_STEPS)
    return [*range(0, maximum - stride + 1, stride), maximum]
