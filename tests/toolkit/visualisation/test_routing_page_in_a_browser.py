"""The slider, moved in a real browser by keyboard and pointer, at desktop and phone width."""

import shutil

import numpy as np
import pytest
from playwright import sync_api

from conditional_adapters.toolkit.visualisation import render_routing_page
from tests.helpers.routed_rows import LABELS, image_row, sound_row, text_row

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
ROWS = (text_row(["the", "quick", "brown", "fox", "jumps", "over", "it"] * 6), image_row())


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def sizes(rows, labels):
    """Open a page with these rows at desktop and at phone width."""
    return pytest.mark.parametrize(
        "page",
        [(1200, "light", rows, labels), (360, "dark", rows, labels)],
        ids=["desktop", "phone"],
        indirect=True,
    )


@pytest.fixture
def page(browser, request, tmp_path):
    """Open the page; it must not complain and not ask for anything."""
    width, scheme, rows, labels = request.param
    path = tmp_path / "page.html"
    path.write_text(render_routing_page(rows, labels=labels, title="Title"), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints, fetched = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert not complaints
    assert [url for url in fetched if not url.startswith("data:")] == [path.as_uri()]


def shown(page) -> dict:
    """Read what a user sees of both rows."""
    return page.evaluate("""() => ({
        name: document.getElementById("factor-name").textContent,
        spoken: document.getElementById("factor").getAttribute("aria-valuetext"),
        articles: [...document.querySelectorAll("article")].map((a) => ({
            levels: [...a.querySelectorAll(".unit")].map((u) => u.getAttribute("class")),
            titles: [...a.querySelectorAll(".unit")].map(
                (u) => u.title || u.querySelector("title").textContent),
            cells: [...a.querySelectorAll(".map tbody td")].map(
                (c) => getComputedStyle(c).backgroundColor),
            layers: [...a.querySelectorAll(".map small")].map((s) => s.textContent),
            numbers: [...a.querySelectorAll(".ours .number")].map((n) => n.textContent),
            bars: [...a.querySelectorAll(".ours .bar")].map(
                (b) => Number(b.style.getPropertyValue("--share"))),
            verdict: a.querySelector(".verdict").textContent,
        })),
    })""")


def check(page, index: int) -> None:
    """Compare the page with the run that the slider points at."""
    seen = shown(page)
    factor = f"r = {ROWS[0].runs[index].reduction_factor:g}"
    assert (seen["name"], seen["spoken"]) == (factor, factor)
    for row, article in zip(ROWS, seen["articles"], strict=True):
        run = row.runs[index]
        counts = np.ravel(run.view.layer_counts)
        assert article["levels"] == [f"unit l{round(20 * c / 3)}" for c in counts]
        assert [float(title.split(" of ")[0]) for title in article["titles"]] == counts.tolist()
        cells = np.array(article["cells"]).reshape(run.processed.shape)[::-1]
        on, off = set(cells[run.processed]), set(cells[~run.processed])
        assert (len(on), len(off)) == (1, 1)
        assert on != off
        numbers = [int(text.split("/")[0]) for text in article["layers"]]
        assert numbers == run.processed.sum(1)[::-1].tolist()
        assert article["layers"][1].endswith(" dense")
        order = np.argsort(-np.array(row.dense_probabilities))
        probabilities = np.array(run.probabilities)[order]
        assert article["numbers"] == [f"{100 * p:.1f} %" for p in probabilities]
        assert article["bars"] == pytest.approx(probabilities.tolist())
        assert LABELS[int(np.argmax(run.probabilities))] in article["verdict"]


@sizes(ROWS, LABELS)
def test_arrow_keys_move_the_slider_and_everything_follows(page) -> None:
    check(page, 0)
    page.keyboard.press("Tab")  # the slider is the first thing that has the focus
    assert page.evaluate("document.activeElement.id") == "factor"
    for key, index in [("ArrowRight", 1), ("End", 2), ("ArrowLeft", 1), ("Home", 0)]:
        page.keyboard.press(key)
        check(page, index)


@sizes(ROWS, LABELS)
def test_the_pointer_moves_the_slider(page) -> None:
    box = page.locator("#factor").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    check(page, 2)


@sizes(ROWS, LABELS)
def test_nothing_is_wider_than_the_window(page) -> None:
    page.locator("summary").last.click()  # the map of the image is closed at first
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]
    page.locator(".scroll").first.focus()
    page.keyboard.press("End")


@sizes(ROWS, LABELS)
def test_the_colours_follow_the_scheme(page) -> None:
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, ground[4:-1].split(","))) < 200
    assert is_dark == (page.viewport_size["width"] == 360)


@sizes((sound_row(),), ())
def test_transcripts_and_moments_follow_the_slider(page) -> None:
    row = sound_row()
    page.locator("#factor").focus()
    for index, (key, run) in enumerate(zip(("Home", "ArrowRight", "End"), row.runs, strict=True)):
        page.keyboard.press(key)
        assert page.locator(".heard").inner_text() == run.transcript
        assert page.locator(".transcripts p").first.inner_text() == row.dense_transcript
        levels = page.locator(".unit").evaluate_all("all => all.map(u => u.getAttribute('class'))")
        counts = np.ravel(run.view.layer_counts)
        assert levels == [f"unit l{round(20 * count / 3)}" for count in counts]
        same = "The same transcript." if index == 2 else "The transcripts differ."
        assert page.locator(".verdict").inner_text() == same
    assert page.locator("article b").inner_text() == row.gold
    assert page.locator("article .ticks span").all_inner_texts() == ["0", "0.1"]
    page.locator("summary").click()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]
