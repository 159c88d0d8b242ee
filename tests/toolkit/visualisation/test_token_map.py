import io
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from conditional_adapters.errors import ConfigError, RoutingError
from conditional_adapters.toolkit.assets import load_packaged_tokenizer
from conditional_adapters.toolkit.visualisation import (
    RoutedDocument,
    plot_layer_token_heatmap,
    plot_token_map,
    words_from_tokens,
)

NEWS = (
    "Peugeot deal boosts Mitsubishi\n\nStruggling Japanese car maker Mitsubishi Motors has struck "
    "a deal to supply French car maker Peugeot with 30,000 sports utility vehicles (SUV). The two "
    "firms signed a Memorandum of Understanding, and say they expect to seal a final agreement by "
    "Spring 2005. The alliance comes as a badly-needed boost for loss-making Mitsubishi, after "
    "several profit warnings and poor sales. The SUVs will be built in Japan using Peugeot's "
    "diesel engines and sold mainly in the European market."
)
NASTY_WORDS = [
    r"$\frac{",
    "$5bn",
    "_^{}\\",
    "%#&~",
    "W" * 300,
    "i" * 500,
    "\u6f22\u5b57",
    "\U0001f600",
    "line\nbreak",
    "tab\there",
    "\0",
    "\u00c5ngstr\u00f6m",
    "\u1ed0\u00c7",
    "a\u0301",
]


def document(words: Sequence[str], counts: Sequence[float] | None = None) -> RoutedDocument:
    counts = [0.0] * len(words) if counts is None else counts
    return RoutedDocument(title="sport: predicted sport", words=words, layer_counts=counts)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def texts_of(figure: Figure) -> list[Text]:
    """The texts that are drawn, in reading order and where the renderer has placed them."""
    png(figure)
    axes_off = [axes for axes in figure.axes if not axes.axison]
    ticks = {
        text for axes in axes_off for side in axes._axis_map.values() for text in side.findobj(Text)
    }
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    return [text for text in found if text not in ticks]


def names(texts: Iterable[Text]) -> list[str]:
    return [text.get_text() for text in texts]


def extent(artist: Text | FancyBboxPatch) -> Bbox:
    return artist.get_window_extent()


def boxes_and_texts(figure: Figure, number: int) -> list[tuple[FancyBboxPatch, Text]]:
    """The words on a background that were drawn last."""
    pairs = [(text.get_bbox_patch(), text) for text in texts_of(figure)]
    return [(box, text) for box, text in pairs if box is not None][-number:]


def luminance(colour: object) -> float:
    """Relative luminance by WCAG 2.2."""
    channels = np.asarray(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: object, second: object) -> float:
    dark, light = sorted([luminance(first), luminance(second)])
    return (light + 0.05) / (dark + 0.05)


# Words from tokens


def test_pieces_of_a_word_are_joined_and_their_counts_averaged():
    offsets = [(0, 0), (0, 3), (3, 6), (7, 11), (11, 12), (0, 0)]
    words, counts = words_from_tokens(offsets, "foobar\tbaz!.", [9, 1, 4, 2, 6, 9])
    assert words == ["foobar", "baz!."]
    assert counts == [2.5, 4.0]


def test_a_token_that_begins_with_a_space_belongs_to_the_word_behind_the_space():
    words, counts = words_from_tokens([(0, 2), (2, 6)], "to  end", [1, 5])
    assert (words, counts) == (["to", "end"], [1.0, 5.0])


def test_a_token_that_spans_two_words_counts_for_both():
    assert words_from_tokens([(0, 6), (6, 8)], "New York", [2, 4])[1] == [2.0, 3.0]


def test_byte_tokens_of_one_character_are_averaged():
    assert words_from_tokens([(0, 1)] * 4, "\U0001f600", [0, 1, 2, 3])[1] == [1.5]


def test_words_without_tokens_are_left_out():
    words, counts = words_from_tokens([(0, 1), (4, 5)], "a b c d", [1, 2])
    assert (words, counts) == (["a", "c"], [1.0, 2.0])


@pytest.mark.parametrize("max_length", [12, 33, 512])
def test_the_minilm_tokenizer_agrees_with_tokenizing_word_by_word(max_length, needs):
    needs("minilm")
    tokenizer = load_packaged_tokenizer("minilm")
    encoding = tokenizer(NEWS, truncation=True, max_length=max_length, return_offsets_mapping=True)
    token_counts = np.random.default_rng(0).integers(0, 7, len(encoding["input_ids"])).tolist()

    words, counts = words_from_tokens(encoding["offset_mapping"], NEWS, token_counts)

    left = token_counts[1:-1]
    expected = []
    for word in NEWS.split():
        pieces, left = np.split(np.array(left), [len(tokenizer.tokenize(word))])
        if len(pieces):
            expected.append((word, pieces.mean()))
    assert words == [word for word, _ in expected]
    np.testing.assert_allclose(counts, [count for _, count in expected])


def test_as_many_counts_as_offsets_are_required():
    with pytest.raises(RoutingError, match="2 offsets but 1 layer counts"):
        words_from_tokens([(0, 1), (2, 3)], "a b", [1])


@pytest.mark.parametrize("offset", [(-1, 2), (2, 1), (0, 4)])
def test_an_offset_outside_the_text_is_refused(offset):
    with pytest.raises(RoutingError, match=rf"\({offset[0]}, {offset[1]}\).* <= 3"):
        words_from_tokens([offset], "abc", [1])


# The token map


def test_each_word_lies_on_the_colour_of_its_count():
    counts = [0.0, 0.5, 1.0, 2.75, 3.0, 4.0]
    figure = plot_token_map([document(list("abcdef"), counts)], num_layers=4)
    pairs = boxes_and_texts(figure, 6)
    assert names(text for _, text in pairs) == list("abcdef")
    colours = [box.get_facecolor()[:3] for box, _ in pairs]
    expected = [matplotlib.colormaps["BuPu"](count / 4)[:3] for count in counts]
    np.testing.assert_allclose(colours, expected)


def test_every_count_gives_readable_text():
    counts = np.linspace(0, 12, 401).tolist()
    figure = plot_token_map([document(["x"] * 401, counts)], num_layers=12, max_words=401)
    pairs = boxes_and_texts(figure, 401)
    assert min(contrast(text.get_color(), box.get_facecolor()) for box, text in pairs) >= 4.5
    assert {text.get_color() for _, text in pairs} == {"black", "white"}
    bare = [text for text in texts_of(figure) if text.get_bbox_patch() is None]
    assert len(bare) == 4  # the label of the scale and the words of the title
    assert min(contrast(text.get_color(), "white") for text in bare) >= 4.5


def test_more_layers_are_always_darker():
    counts = np.linspace(0, 6, 61).tolist()
    figure = plot_token_map([document(["x"] * 61, counts)], num_layers=6)
    brightness = [luminance(box.get_facecolor()) for box, _ in boxes_and_texts(figure, 61)]
    assert all(before > after for before, after in pairwise(brightness))


@pytest.mark.parametrize("num_layers", [1, 6, 12, 13, 24, 48, 100])
def test_the_colour_scale_has_the_colours_and_numbers_of_the_words(num_layers):
    figure = plot_token_map([document(["word"])], num_layers=num_layers)
    *scale, _ = boxes_and_texts(figure, 14)
    ticks = [int(text.get_text()) for _, text in scale]
    assert (ticks[0], ticks[-1]) == (0, num_layers)
    assert len({after - before for before, after in pairwise(ticks[:-1])}) <= 1
    for tick, (box, _) in zip(ticks, scale, strict=True):
        colour = matplotlib.colormaps["BuPu"](tick / num_layers)
        np.testing.assert_allclose(box.get_facecolor(), colour)
    for (left, _), (right, _) in pairwise(scale):
        assert extent(left).x1 < extent(right).x0
    assert f"layers that processed the word (of {num_layers})" in names(texts_of(figure))


@pytest.mark.parametrize("words", [NEWS.split(), NASTY_WORDS], ids=["news", "nasty"])
def test_all_text_stays_on_the_page_and_inside_its_box(words):
    long = " ".join([NEWS, *NASTY_WORDS])
    shown = RoutedDocument(title=long, words=words, layer_counts=[1.0] * len(words))
    figure = plot_token_map([shown] * 2, num_layers=2, caption=long, max_words=40)
    page = figure.bbox.padded(-0.01 * figure.dpi)
    pairs = boxes_and_texts(figure, 1000)
    assert len(pairs) > 2 * len(words[:40])
    for artist in [*texts_of(figure), *(box for box, _ in pairs)]:
        area = extent(artist)
        assert page.x0 <= area.x0 <= area.x1 <= page.x1, artist
        assert page.y0 <= area.y0 <= area.y1 <= page.y1, artist
    for box, text in pairs:
        assert extent(box).x0 <= extent(text).x0 <= extent(text).x1 <= extent(box).x1, text
        assert extent(box).y0 <= extent(text).y0 <= extent(text).y1 <= extent(box).y1, text


def test_words_flow_in_reading_order_without_overlap():
    words = NEWS.split()
    figure = plot_token_map([document(words)], num_layers=1)
    pairs = boxes_and_texts(figure, len(words))
    assert names(text for _, text in pairs) == words
    areas = [extent(box) for box, _ in pairs]
    line_ends = 0
    for before, after in pairwise(areas):
        if after.x0 > before.x0:
            assert before.x1 < after.x0
            assert before.y0 == pytest.approx(after.y0, abs=1)
        else:
            line_ends += 1
            assert after.y1 < before.y0
            assert after.x0 == pytest.approx(areas[0].x0)
            right_margin = figure.bbox.width - areas[0].x0
            assert before.x1 <= right_margin < before.x1 + after.width + figure.dpi / 18
    assert line_ends >= 4


def test_a_word_wider_than_a_line_is_cut_and_nothing_is_lost():
    word = "".join(chr(ord("a") + i % 26) for i in range(700))
    figure = plot_token_map([document([word])], num_layers=1)
    pieces = [name for name in names(texts_of(figure)) if name in word]
    assert len(pieces) >= 4
    assert "".join(pieces) == word


@pytest.mark.parametrize(
    "max_words, mark",
    [(3, "\u2026 2 more words"), (4, "\u2026 1 more word"), (5, None), (180, None)],
)
def test_a_long_document_ends_with_an_ellipsis_and_the_number_of_hidden_words(max_words, mark):
    figure = plot_token_map([document(list("vwxyz"))], num_layers=1, max_words=max_words)
    texts = names(texts_of(figure))
    assert [t for t in texts if t in "vwxyz"] == list("vwxyz")[:max_words]
    assert [t for t in texts if t.startswith("\u2026")] == ([mark] if mark else [])


def test_titles_and_caption_are_written_around_their_documents():
    documents = [
        RoutedDocument(title="first", words=["alpha"], layer_counts=[0.0]),
        RoutedDocument(title="second", words=["beta"], layer_counts=[1.0]),
    ]
    figure = plot_token_map(documents, num_layers=1, caption="below")
    height = {text.get_text(): extent(text).y0 for text in texts_of(figure)}
    order = ["first", "alpha", "second", "beta", "below"]
    assert sorted(order, key=lambda name: -height[name]) == order


def test_the_page_is_as_high_as_its_content():
    for number in (1, 60, 180):
        figure = plot_token_map([document(["word"] * number)], num_layers=1)
        lowest = min(extent(box).y0 for box, _ in boxes_and_texts(figure, number))
        assert 0.1 < lowest / figure.dpi < 0.3


def test_mathematics_is_drawn_literally():
    words = [r"$\frac{", "$", "a_b^c"]
    figure = plot_token_map([document(words)], num_layers=1, caption=r"$\broken{$")
    drawn = names(texts_of(figure))
    assert set(words) <= set(drawn)
    assert r"$\broken{$" in drawn


def test_characters_that_the_font_lacks_become_squares():
    figure = plot_token_map([document(["\u6f22x\u5b57", "a\nb"])], num_layers=1)
    drawn = names(texts_of(figure))
    assert "\u25a1x\u25a1" in drawn
    assert "a\u25a1b" in drawn


def test_the_picture_is_the_same_every_time_and_whatever_the_user_settings():
    documents = [document(NEWS.split(), [float(i % 4) for i in range(len(NEWS.split()))])]
    first = png(plot_token_map(documents, num_layers=3, caption="caption"))
    assert png(plot_token_map(documents, num_layers=3, caption="caption")) == first
    settings = {
        "font.family": "serif",
        "font.size": 30,
        "figure.dpi": 50,
        "figure.facecolor": "red",
        "text.color": "red",
        "text.usetex": True,
        "image.cmap": "jet",
    }
    with matplotlib.rc_context(settings):
        assert png(plot_token_map(documents, num_layers=3, caption="caption")) == first


def test_importing_needs_no_matplotlib_and_drawing_no_pyplot():
    program = (
        "import sys\n"
        "from conditional_adapters.toolkit.visualisation import RoutedDocument, plot_token_map\n"
        "assert 'matplotlib' not in sys.modules\n"
        "document = RoutedDocument(title='t', words=['w'], layer_counts=[1.0])\n"
        "plot_token_map([document], num_layers=1)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_a_document_needs_words():
    with pytest.raises(RoutingError, match="'empty' has 0 words"):
        RoutedDocument(title="empty", words=[], layer_counts=[])


def test_a_document_needs_one_count_per_word():
    with pytest.raises(RoutingError, match="'t' has 2 words but 1 layer counts"):
        RoutedDocument(title="t", words=["a", "b"], layer_counts=[1.0])


@pytest.mark.parametrize("count", [-0.5, 6.01, float("nan"), float("inf")])
def test_a_count_outside_the_layers_is_refused(count):
    with pytest.raises(RoutingError, match=f"'bad'.* layer count {count}; .*num_layers = 6"):
        plot_token_map([document(["good", "bad"], [6.0, count])], num_layers=6)


def test_a_map_needs_a_document():
    with pytest.raises(RoutingError, match="got 0 documents"):
        plot_token_map([], num_layers=6)


@pytest.mark.parametrize("name", ["num_layers", "max_words"])
def test_sizes_below_one_are_refused(name):
    sizes = {"num_layers": 6, "max_words": 10, name: 0}
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        plot_token_map([document(["a"])], **sizes)


# The heat map


def cells_of(axes: Axes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each cell is dark, and its centres in pixels: `x[columns]` and `y[layers]`."""
    axes.figure.canvas.draw()
    (mesh,) = axes.collections
    layers, columns, _ = np.subtract(mesh.get_coordinates().shape, (1, 1, 0))
    colours = mesh.get_facecolors().reshape(layers, columns, 4)
    dark = np.array([[luminance(colour) < 0.2 for colour in row] for row in colours])
    corners = axes.transData.transform(mesh.get_coordinates().reshape(-1, 2))
    corners = corners.reshape(layers + 1, columns + 1, 2)
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    return dark, centres[0, :, 0], centres[:, 0, 1]


def test_the_heat_map_shows_every_layer_and_token_from_the_bottom():
    selected = np.random.default_rng(0).random((5, 30)) < 0.4
    figure = plot_layer_token_heatmap(selected)
    dark, x, y = cells_of(figure.axes[-1])
    np.testing.assert_array_equal(dark, selected)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    heights = {text.get_text(): extent(text) for text in texts_of(figure)}
    for layer, height in enumerate(y, start=1):
        assert heights[str(layer)].y0 < height < heights[str(layer)].y1


def test_the_heat_map_says_what_its_two_colours_mean():
    figure = plot_layer_token_heatmap(np.array([[True, False]]))
    legend = {text.get_text(): box.get_facecolor() for box, text in boxes_and_texts(figure, 2)}
    yes, no = map(tuple, figure.axes[-1].collections[0].get_facecolors())
    assert legend == {"processed by the layer": yes, "skipped": no}
    assert contrast(yes, no) >= 3


def test_each_label_stands_below_its_own_column_and_long_maps_wrap():
    labels = [f"t{i}" for i in range(100)]
    figure = plot_layer_token_heatmap(np.eye(3, 100, dtype=bool), labels)
    label = {text.get_text(): extent(text) for text in texts_of(figure)}
    _, columns, layers = cells_of(figure.axes[-1])
    assert len(columns) == 36
    for column, x in enumerate(columns):
        area = label[f"t{64 + column}"]
        assert (area.x0 + area.x1) / 2 == pytest.approx(x, abs=1.5)
        assert area.y1 < layers.min()
    assert label["t64"].y1 < label["t63"].y0
    for left, right in pairwise(labels[64:]):
        assert label[left].x1 < label[right].x0


@pytest.mark.parametrize("num_tokens", [1, 64, 65])
def test_the_heat_map_and_its_labels_stay_on_the_page(num_tokens):
    labels = (["W" * 40, "\u6f22$\\frac{", "", "[CLS]"] * 20)[:num_tokens]
    figure = plot_layer_token_heatmap(np.ones((12, num_tokens), dtype=bool), labels, caption="c")
    texts = texts_of(figure)
    for area in [*map(extent, texts), *(axes.bbox for axes in figure.axes)]:
        assert 0 <= area.x0 <= area.x1 <= figure.bbox.width, area
        assert 0 <= area.y0 <= area.y1 <= figure.bbox.height, area
    assert "W" * 13 + "\u2026" in names(texts)
    *others, caption = texts
    assert caption.get_text() == "c"
    assert extent(caption).y1 < min(extent(text).y0 for text in others)


@pytest.mark.parametrize(
    "selected", [np.zeros((0, 3), dtype=bool), np.zeros(3, dtype=bool), np.zeros((2, 3))]
)
def test_a_heat_map_needs_layers_times_tokens_of_bool(selected):
    # TypeError: the shape checker, where it is switched on, is faster than our check.
    with pytest.raises((RoutingError, TypeError), match=r"layers,? tokens"):
        plot_layer_token_heatmap(selected)


def test_a_heat_map_needs_one_label_per_token():
    with pytest.raises(RoutingError, match="Got 1 labels for 2 tokens"):
        plot_layer_token_heatmap(np.ones((1, 2), dtype=bool), ["one"])
