"""The page says what was routed, escapes what users wrote, and needs nothing from elsewhere."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest

from conditional_adapters.errors import RoutingError
from conditional_adapters.toolkit.visualisation import render_routing_page
from tests.helpers.routed_rows import LABELS, LAYERS, NASTY, image_row, pictured, text_row


class Page(HTMLParser):
    """Collects (tag, attributes, text) of a page as a browser's parser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag) -> None:
        self.elements.append(("", {}, []))  # takes the text behind the element

    def handle_data(self, data) -> None:
        if self.elements:
            self.elements[-1][2].append(data)

    def all(self, tag, **attributes):
        """Return attributes and text of the elements with these words in their attributes."""
        return [
            (found, "".join(text).strip())
            for name, found, text in self.elements
            if name == tag
            and all(v in (found.get(k.rstrip("_")) or "").split() for k, v in attributes.items())
        ]


def render(*rows, labels=LABELS, start=0, title="<i>Title</i>") -> str:
    return render_routing_page(rows, labels=labels, title=title, start=start)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_what_users_wrote_is_text_and_nothing_else() -> None:
    page = Page(render(text_row(), image_row()))
    scripts = page.all("script")
    assert [attributes.get("type") for attributes, _ in scripts] == ["application/json", None]
    assert "alert" not in scripts[1][1]
    assert [text for _, text in page.all("span", class_="unit")] == NASTY
    assert page.all("h1")[0][1] == "<i>Title</i>"
    assert [text for _, text in page.all("h2")] == ["Row <1>"] * 2
    assert page.all("b")[1][1] == LABELS[1]
    assert not page.all("i")
    columns = [text for attributes, text in page.all("th", scope="col")]
    assert len(columns) == 3 + len(NASTY) + 3


def test_only_our_script_may_run_and_nothing_is_fetched() -> None:
    html = render(text_row(), image_row())
    page = Page(html)
    script = page.all("script")[1]
    assert script[0] == {}
    code = re.search(r"<script>(.*?)</script>", html, flags=re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    (policy,) = [a["content"] for a, _ in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    sources = [
        v for _, a, _ in page.elements for k, v in a.items() if k in ("src", "href", "xlink")
    ]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(|@import|srcset", html)
    assert not page.all("link")


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_page_opens_at_the_wanted_factor_with_the_numbers_of_its_run(start) -> None:
    row = text_row(["a", "b", "c", "d", "e"], num_cut_words=3)
    page, run = Page(render(row, start=start)), row.runs[start]
    ((slider, _),) = page.all("input")
    factor = f"{run.reduction_factor:g}"
    assert (slider["type"], slider["value"], slider["max"]) == ("range", str(start), "2")
    assert slider["aria-label"] == "Reduction factor r"
    assert slider["aria-valuetext"] == f"r = {factor}"
    assert {text for _, text in page.all("span", class_="r")} == {factor}
    for (unit, _), count in zip(
        page.all("span", class_="unit"), run.view.layer_counts, strict=True
    ):
        assert unit["title"] == f"{count} of 3 layers"
        assert f"l{round(20 * count / 3)}" in unit["class"].split()
    cells = [a.get("class") == "on" for a, _ in page.all("td") if a.get("class") in (None, "on")]
    drawn = np.array(cells).reshape(LAYERS, 5)[::-1]  # the input enters at the bottom
    np.testing.assert_array_equal(drawn, run.processed)
    order = np.argsort(-np.array(row.dense_probabilities))
    names = [text for a, text in page.all("th", scope="row")][:3]
    assert names == [LABELS[i] for i in order]
    numbers = [text for _, text in page.all("span", class_="number")]
    expected = [p for i in order for p in (row.dense_probabilities[i], run.probabilities[i])]
    assert numbers == [f"{100 * p:.1f} %" for p in expected]
    dense, ours = np.argmax(row.dense_probabilities), np.argmax(run.probabilities)
    ((_, verdict),) = page.all("p", class_="verdict")
    assert verdict.startswith("Same" if dense == ours else "Different")
    assert LABELS[ours] in verdict
    assert LABELS[dense] in verdict
    assert any("3 more words" in "".join(text) for _, _, text in page.elements)


def test_the_script_gets_every_run() -> None:
    row = text_row()
    data = json.loads(Page(render(row)).all("script")[0][1])
    assert data["factors"] == ["2", "4", "8"]
    assert data["layers"] == 3
    for index, run in enumerate(row.runs):
        stored = data["rows"][0]
        digits = [list(map(int, layer)) for layer in stored["layers"][index][::-1]]
        np.testing.assert_array_equal(np.array(digits, dtype=bool), run.processed)
        assert stored["counts"][index] == run.view.layer_counts
        assert sorted(stored["probabilities"][index]) == pytest.approx(sorted(run.probabilities))


def test_patches_lie_over_the_image_that_the_model_saw() -> None:
    row = image_row()
    page, view = Page(render(row)), row.runs[0].view
    for attributes, _ in page.all("img"):
        encoded = attributes["src"].removeprefix("data:image/png;base64,")
        decoded = PIL.Image.open(io.BytesIO(base64.b64decode(encoded)))
        np.testing.assert_array_equal(np.asarray(decoded), pictured())
    assert "3 2" in page.all("svg")[0][0]["viewbox"]
    patches = [attributes for attributes, _ in page.all("rect")]
    assert len(patches) == 6
    for patch in patches:
        count = view.layer_counts[int(patch["y"]), int(patch["x"])]
        assert f"l{round(20 * count / 3)}" in patch["class"].split()


def test_every_level_is_readable_and_the_scale_runs_one_way_in_both_schemes() -> None:
    html = render(text_row())
    rules = re.findall(r"\.l(\d+) \{ background: (#\w{6}); color: (black|white);", html)
    assert [int(level) for level, _, _ in rules] == [*range(21), *range(21)]
    for _, ground, ink in rules:
        lights = sorted([luminance(ground), 0.0 if ink == "black" else 1.0])
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5
    light = [luminance(ground) for _, ground, _ in rules[:21]]
    dark = [luminance(ground) for _, ground, _ in rules[21:]]
    assert light == sorted(light, reverse=True)
    assert dark == sorted(dark)


def test_many_classes_are_cut_to_those_that_matter() -> None:
    labels = [f"class {i}" for i in range(30)]
    row = text_row(labels=labels)
    page = Page(render(row, labels=labels))
    names = [text for a, text in page.all("th", scope="row") if text.startswith("class")]
    assert len(names) == 8
    assert all(labels[int(np.argmax(run.probabilities))] in names for run in row.runs)
    assert any("22 classes" in "".join(text) for _, _, text in page.elements)


@pytest.mark.parametrize("rows", [(), (text_row(), text_row(factors=(2, 4)))])
def test_a_page_needs_rows_at_the_same_factors(rows) -> None:
    with pytest.raises(RoutingError, match=f"Got {len(rows)} rows with"):
        render(*rows)
