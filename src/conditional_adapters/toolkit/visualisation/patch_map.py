"""Picture of the number of layers that processed each patch of an image.

The spectrogram of a recording is an image with one row of patches, called moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from ...errors import ConfigError, RoutingError
from ._colours import palette
from ._page import TICK, TITLE, WIDTH, Page

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_OPACITY = 0.8  # of the colours on the grey image
_MAX_TICKS = 10
_PAIR_WIDTH = 2.04  # of an image, a gap and its heat map, in widths of the image
_STRIPS_HEIGHT = 130.0  # of a spectrogram and its heat map, in points

_Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, kw_only=True)
class RoutedImage:
    """An image or a spectrogram, with the number of layers that processed each patch.

    Attributes:
        title: Title of the image, for example `predicted cat, gold dog`.
        pixels: RGB input of the model, cropped and resized.
        layer_counts: Number of layers that processed each patch, from 0 to the number of layers.
            The grid covers the image evenly.
        seconds: Length of the recording, > 0; None for an image.
    """

    title: str
    pixels: UInt8[np.ndarray, "height width 3"]
    layer_counts: Float[np.ndarray, "rows columns"]
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise RoutingError(
                f"The image {self.title!r} has pixels of shape {self.pixels.shape} and dtype "
                f"{self.pixels.dtype}; they must be [height, width, 3] of uint8. Convert it to RGB."
            )
        if self.seconds is not None and not self.seconds > 0:
            raise RoutingError(
                f"The recording {self.title!r} has {self.seconds} seconds; it must have more than "
                "0. Give its length, or None for an image."
            )
        if self.layer_counts.ndim != 2 or not self.layer_counts.size:
            raise RoutingError(
                f"The image {self.title!r} has layer counts of shape {self.layer_counts.shape}; "
                "they must be a non-empty grid [rows, columns]. Leave out prefix tokens and reshape"
                " the rest."
            )

    @property
    def unit(self) -> str:
        """Name of a grid cell."""
        return "patch" if self.seconds is None else "moment"


def plot_patch_map(
    images: Sequence[RoutedImage], *, num_layers: int, caption: str = ""
) -> "matplotlib.figure.Figure":
    """Draw images beside their patches, coloured by the number of layers that processed them.

    Spectrograms are as wide as the page, above their moments. Low frequencies are at the bottom.

    Args:
        images: Images or recordings, not both, from top to bottom; at least one.
        num_layers: Number of layers that can skip tokens, >= 1; the end of the scale.
        caption: Text below the images; none if empty.

    Returns:
        A figure 7.2 inches wide and as high as its content.

    Raises:
        ConfigError: If `num_layers` is less than 1.
        RoutingError: If there is no image, images and recordings are mixed, or a count lies
            outside `[0, num_layers]`.
    """
    if num_layers < 1:
        raise ConfigError(f"num_layers must be at least 1, got {num_layers}. Increase it.")
    if not images:
        raise RoutingError("A patch map needs at least 1 image, got 0 images. Pass a RoutedImage.")
    (unit, *others) = {image.unit for image in images}
    if others:
        raise RoutingError(
            "A patch map needs images or recordings, got images and recordings together. Draw two "
            "patch maps."
        )
    page = Page()
    page.scale(f"layers that processed the {unit} (of {num_layers})", num_layers)
    for image in images:
        page.skip(13)
        page.write(image.title.split(), TITLE)
        page.skip(6)
        heat_map = _heat_map(image, num_layers)
        if image.seconds is None:
            height, width, _ = image.pixels.shape
            block = WIDTH * height / width / _PAIR_WIDTH
            page.draw(block, partial(_draw_pair, image.pixels, heat_map))
        else:
            page.draw(_STRIPS_HEIGHT, partial(_draw_strips, image.pixels, heat_map, image.seconds))
            page.skip(20)
    return page.finish(caption)


def _draw_pair(pixels: _Pixels, heat_map: _Pixels, axes: "matplotlib.axes.Axes") -> None:
    height, width, _ = pixels.shape
    axes.set_axis_off()
    for picture, left in ((pixels, 0), (heat_map, _PAIR_WIDTH - 1)):
        corners = (left, left + 1, 0, height / width)
        axes.imshow(picture, extent=corners, aspect="auto", interpolation="nearest")
    axes.set_xlim(0, _PAIR_WIDTH)


def _draw_strips(
    pixels: _Pixels, heat_map: _Pixels, seconds: float, axes: "matplotlib.axes.Axes"
) -> None:
    for picture, bottom in ((pixels, 1.03), (heat_map, 0)):
        corners = (0, seconds, bottom, bottom + 1)
        axes.imshow(picture, extent=corners, aspect="auto", interpolation="nearest")
    axes.set_ylim(0, 2.03)
    axes.set_yticks([])
    names, positions = zip(*time_ticks(seconds), strict=True)
    axes.set_xticks([position * seconds for position in positions], names, **TICK)
    axes.set_xlabel("seconds", labelpad=2, **TICK)


def time_ticks(seconds: float) -> list[tuple[str, float]]:
    """Labels of the time axis of a recording, and their positions in [0, 1]."""
    from matplotlib.ticker import MaxNLocator

    times = MaxNLocator(nbins=_MAX_TICKS - 1, steps=(1, 2, 5, 10)).tick_values(0, seconds)
    return [(f"{time:g}", time / seconds) for time in times if time <= seconds]


def _heat_map(image: RoutedImage, num_layers: int) -> UInt8[np.ndarray, "height width 3"]:
    """Blend the colours of the patches with the image in grey."""
    counts = image.layer_counts
    if not (np.isfinite(counts).all() and counts.min() >= 0 and counts.max() <= num_layers):
        raise RoutingError(
            f"The image {image.title!r} has layer counts from {counts.min()} to {counts.max()}; "
            f"they must be between 0 and num_layers = {num_layers}. "
            "Count only layers that can skip tokens, or increase num_layers."
        )
    colours = np.array(palette((counts / num_layers).ravel())).reshape(*counts.shape, 3)
    height, width, _ = image.pixels.shape
    rows = np.arange(height) * counts.shape[0] // height
    columns = np.arange(width) * counts.shape[1] // width
    grey = image.pixels.mean(-1, keepdims=True) / 255
    mixed = _OPACITY * colours[np.ix_(rows, columns)] + (1 - _OPACITY) * grey
    return np.asarray((255 * mixed).round(), dtype=np.uint8)
