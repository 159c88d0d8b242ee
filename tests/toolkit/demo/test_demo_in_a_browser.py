"""The real server and a real browser: type, move the slider, upload; nothing leaves the machine."""

import re
import shutil
import socket

import numpy as np
import PIL.Image
import pytest
from playwright import sync_api
from playwright.sync_api import expect

from conditional_adapters.toolkit.demo import Demonstration, build_app, serve
from tests.helpers.tiny_classifiers import image_classifier, text_classifier

pytest.importorskip("gradio", reason="no gradio: pip install 'conditional-adapters[demo]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the server's libraries
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
WAIT = 60_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_demo(browser, monkeypatch):
    """Serve a classifier and open its page; neither may complain or ask others for anything."""
    apps, pages, complaints, fetched, called = [], [], [], [], []
    connect = socket.socket.connect
    monkeypatch.setattr(
        socket.socket, "connect", lambda s, address: (called.append(address), connect(s, address))
    )

    def open_page(classifier, **options):
        app = build_app(Demonstration(classifier), title="<i>Title</i>")
        apps.append(app)
        page = browser.new_page(**options)
        pages.append(page)
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        url = serve(app)
        page.goto(url)
        return page, url

    yield open_page
    for page in pages:
        page.close()
    for app in apps:
        app.close(verbose=False)
    # Gradio's client says this whenever it closes a stream of events.
    assert set(complaints) <= {"Method not implemented."}
    assert {re.sub(r"^(\w+://[^:/]+).*", r"\1", url) for url in fetched} <= {"http://127.0.0.1"}
    hosts = {address[0] for address in called if isinstance(address, tuple)}
    assert hosts <= {"127.0.0.1", "localhost", "::1"}


def numbers(page) -> list[str]:
    return page.locator("#result .ours .number").all_inner_texts()


def percent(demonstration, value, factor) -> list[str]:
    """Return what the page should list, from the answer itself."""
    row = demonstration.answer(value, factor).row
    order = np.argsort(-np.array(row.dense_probabilities))
    return [f"{100 * row.runs[0].probabilities[i]:.1f} %" for i in order]


def test_typing_and_the_slider_change_prediction_and_map(open_demo) -> None:
    page, _ = open_demo(text_classifier(), viewport={"width": 360, "height": 800})
    oracle = Demonstration(text_classifier())
    result, text = page.locator("#result"), " ".join(f"w{i}" for i in range(17))
    expect(result.locator(".answer")).to_be_visible(timeout=WAIT)  # of the example
    page.fill("#text textarea", text)
    expect(result.locator(".unit")).to_have_text(text.split(), timeout=WAIT)
    expect(page.locator("#tokens")).to_have_text("10 of 19")
    assert numbers(page) == percent(oracle, text, 2)
    page.focus("#factor")
    for key, factor, tokens in [("End", 8, "3 of 19"), ("ArrowLeft", 4, "5 of 19")]:
        page.keyboard.press(key)
        expect(page.locator("#tokens")).to_have_text(tokens, timeout=WAIT)
        expect(page.locator("#factor-name")).to_have_text(f"r = {factor}")
        assert page.get_attribute("#factor", "aria-valuetext") == f"r = {factor}"
        assert numbers(page) == percent(oracle, text, factor)
        processed = oracle.answer(text, factor).row.runs[0].processed[::-1].ravel().tolist()
        cells = page.eval_on_selector_all(".map td", "c => c.map((d) => d.className === 'on')")
        assert cells == processed
        assert page.evaluate("document.activeElement.id") == "factor"
    page.fill("#text textarea", "")
    expect(page.get_by_role("alert")).to_contain_text("Type a text", timeout=WAIT)
    page.fill("#text textarea", "w1 w2")
    expect(result.locator(".unit")).to_have_text(["w1", "w2"], timeout=WAIT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_broken_file_gives_a_message_and_the_next_one_works(open_demo, tmp_path) -> None:
    page, _ = open_demo(image_classifier(3), color_scheme="dark")
    expect(page.get_by_role("alert")).to_contain_text("Give an image", timeout=WAIT)
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    page.set_input_files("#image input[type=file]", tmp_path / "broken.png")
    expect(page.get_by_role("alert")).to_contain_text("cannot be read", timeout=WAIT)
    page.get_by_label("Clear").or_(page.get_by_label("Remove Image")).first.click()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "good.png")
    page.set_input_files("#image input[type=file]", tmp_path / "good.png")
    expect(page.locator("#result rect")).to_have_count(24, timeout=WAIT)
    expected = percent(Demonstration(image_classifier(3)), str(tmp_path / "good.png"), 3)
    assert numbers(page) == expected
    page.focus("#factor")
    page.keyboard.press("Home")  # r = 1, which this adapter was not trained at
    expect(page.locator("#tokens")).to_have_text("25 of 25", timeout=WAIT)
    expect(page.get_by_role("status").first).to_contain_text("trained at r = 3, not at 1")
