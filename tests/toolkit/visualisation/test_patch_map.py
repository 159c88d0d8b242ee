"""Images stand upright, and each patch has the colour of its count."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.text import Text

from conditional_adapters.errors import ConfigError, RoutingError
from conditional_adapters.toolkit.visualisation import RoutedImage, plot_patch_map
from conditional_adapters.toolkit.visualisation.patch_map import time_ticks


def routed(pixels=None, counts=None) -> RoutedImage:
    if pixels is None:
        pixels = np.full((40, 60, 3), 128, dtype=np.uint8)
    if counts is None:
        counts = np.zeros((2, 3))
    return RoutedImage(title="predicted cat", pixels=pixels, layer_counts=counts)


def drawn(figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return image.imread(file)[:, :, :3]


def places(figure) -> list[tuple[slice, slice]]:
    """Find rows and columns of the two pictures that were drawn last."""
    drawn(figure)
    height = figure.bbox.height
    boxes = [picture.get_window_extent() for picture in figure.axes[-1].images]
    return [
        (
            slice(round(height - box.y1), round(height - box.y0)),
            slice(round(box.x0), round(box.x1)),
        )
        for box in boxes
    ]


def test_the_image_and_its_patches_stand_upright_and_are_not_mirrored() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :20], pixels[20:, 40:] = (255, 0, 0), (0, 0, 255)
    counts = np.zeros((2, 3))
    counts[0, 2] = 4
    figure = plot_patch_map([routed(pixels, counts)], num_layers=4)
    page = drawn(figure)
    left, right = places(figure)
    picture, heat = page[left], page[right]
    assert picture.shape[1] / picture.shape[0] == pytest.approx(1.5, abs=0.02)
    np.testing.assert_allclose(picture[5, 5], (1, 0, 0), atol=0.01)
    np.testing.assert_allclose(picture[-5, -5], (0, 0, 1), atol=0.01)
    np.testing.assert_allclose(picture[5, -5], (0, 0, 0), atol=0.01)
    dark = heat.mean(-1) < 0.35
    height, width = dark.shape
    rows, columns = np.nonzero(dark)
    assert rows.max() == pytest.approx(height / 2, abs=3)
    assert columns.min() == pytest.approx(2 * width / 3, abs=3)
    assert dark[: height // 2 - 3, 2 * width // 3 + 3 :].mean() > 0.98


def test_each_patch_has_the_colour_of_its_count_over_the_grey_image() -> None:
    counts = np.array([[0.0, 1.0, 2.0], [3.0, 5.0, 6.0]])
    figure = plot_patch_map([routed(counts=counts)], num_layers=6)
    heat = drawn(figure)[places(figure)[1]]
    height, width, _ = heat.shape
    for (row, column), count in np.ndenumerate(counts):
        colour = heat[(2 * row + 1) * height // 4, (2 * column + 1) * width // 6]
        expected = 0.8 * np.array(matplotlib.colormaps["BuPu"](count / 6)[:3]) + 0.2 * 128 / 255
        np.testing.assert_allclose(colour, expected, atol=0.01)


def test_a_grid_that_does_not_divide_the_image_covers_all_of_it() -> None:
    figure = plot_patch_map(
        [routed(np.zeros((7, 5, 3), dtype=np.uint8), np.ones((3, 2)))], num_layers=1
    )
    heat = drawn(figure)[places(figure)[1]][3:-3, 3:-3]
    assert np.ptp(heat.reshape(-1, 3), axis=0).max() < 0.02


def test_a_recording_goes_over_the_whole_width_above_its_moments() -> None:
    counts = np.zeros((1, 10))
    counts[0, 0] = 2
    grey = np.full((8, 100, 3), 128, dtype=np.uint8)
    sound = RoutedImage(title="r = 2", pixels=grey, layer_counts=counts, seconds=0.2)
    figure = plot_patch_map([sound], num_layers=2)
    page = drawn(figure)
    above, below = places(figure)
    assert all(cut.stop - cut.start > 0.9 * page.shape[1] for _, cut in (above, below))
    assert above[0].stop < below[0].start
    strip = page[below][2:-2]
    width = strip.shape[1]
    assert strip[:, round(0.05 * width)].mean() < 0.35  # the first moment, both layers
    assert strip[:, round(0.15 * width)].mean() > 0.7
    axis = figure.axes[-1].xaxis
    numbers = [(tick.label1.get_text(), tick.get_loc()) for tick in axis.get_major_ticks()]
    assert [name for name, _ in numbers] == ["0", "0.05", "0.1", "0.15", "0.2"]
    assert all(place == pytest.approx(float(name)) for name, place in numbers)
    lowest = axis.label.get_window_extent()
    assert lowest.y0 > 0
    assert figure.bbox.height - lowest.y1 > below[0].stop
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any("processed the moment" in text for text in texts)


@pytest.mark.parametrize(
    "seconds, first, last, number",
    [(0.5, "0", "0.5", 6), (2.04, "0", "2", 5), (30, "0", "30", 7), (0.04, "0", "0.04", 9)],
)
def test_seconds_are_numbered_where_they_are(seconds, first, last, number) -> None:
    ticks = time_ticks(seconds)
    names = [name for name, _ in ticks]
    assert (names[0], names[-1], len(names)) == (first, last, number)
    for name, place in ticks:
        assert place == pytest.approx(float(name) / seconds)
        assert 0 <= place <= 1 + 1e-9


def test_bad_images_are_refused() -> None:
    sound = RoutedImage(
        title="r = 2", pixels=routed().pixels, layer_counts=np.zeros((1, 3)), seconds=1
    )
    with pytest.raises(RoutingError, match=r"images and recordings together"):
        plot_patch_map([routed(), sound], num_layers=6)
    with pytest.raises(RoutingError, match="has 0 seconds"):
        RoutedImage(title="x", pixels=routed().pixels, layer_counts=np.zeros((1, 3)), seconds=0)
    with pytest.raises((RoutingError, TypeError), match="uint8"):
        routed(np.zeros((4, 4, 3)))
    with pytest.raises((RoutingError, TypeError), match=r"rows,? columns"):
        routed(counts=np.zeros(6))
    with pytest.raises(RoutingError, match=r"from 0.0 to 7.0; .*num_layers = 6"):
        plot_patch_map([routed(counts=np.array([[0.0, 7.0]]))], num_layers=6)
    with pytest.raises(RoutingError, match="num_layers = 6"):
        plot_patch_map([routed(counts=np.array([[0.0, np.nan]]))], num_layers=6)
    with pytest.raises(RoutingError, match="got 0 images"):
        plot_patch_map([], num_layers=6)
    with pytest.raises(ConfigError, match="num_layers must be at least 1, got 0"):
        plot_patch_map([routed()], num_layers=0)
