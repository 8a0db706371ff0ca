"""The page in a real Chromium, in front of the real chain: what a visitor sees from the cold start on."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.processes import Processes
from tests.support.space import Space, start_space
from tests.support.visits import wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DRAW_MS = 150_000
# Everything that the living sentence says from now on.
_LISTEN = """() => {
    window.said = [];
    let last = document.querySelector("#status").innerText.trim();
    window.listening?.disconnect();
    window.listening = new MutationObserver(() => {
        const sentence = document.querySelector("#status")?.innerText.trim();
        if (sentence && sentence !== last) said.push(last = sentence);
    });
    listening.observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """`python app.py` with nothing running behind it yet."""
    started = Processes(tmp_path_factory.mktemp("space"))
    yield start_space(started)
    started.stop_all()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor's browser: a phone."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    yield context
    context.close()


def _open(context: BrowserContext, space: Space) -> Page:
    page = context.new_page()
    page.goto(space.url)
    wait_until_ready(page)
    return page


def _draw(page: Page, prompt: str) -> list[str]:
    """Draws by Enter; returns what the living sentence said meanwhile."""
    page.evaluate(_LISTEN)
    page.fill("#prompt textarea", prompt)
    page.press("#prompt textarea", "Enter")
    # Not what stands there: that may still be the end of the drawing before.
    page.wait_for_function("said.some(sentence => /Done in/.test(sentence))", timeout=DRAW_MS)
    said: list[str] = page.evaluate("said")
    return said


def _pixels(page: Page) -> list[int]:
    size: list[int] = page.locator("#result img").evaluate(
        """async image => {
            await image.decode();
            return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    return size


def test_cold_then_warm(context: BrowserContext, space: Space, tmp_path: Path) -> None:
    """A first prompt tells its stages from the cold start to the picture, a second one starts nothing any more."""
    page = _open(context, space)
    cold = " | ".join(_draw(page, "a red apple"))
    assert "Waking the machine that draws" in cold, cold
    assert "Loading the model" in cold, cold
    assert _pixels(page) == [256, 256]
    services = space.living()
    assert len([argv for argv in services.values() if "--client" in argv or "--server" in argv]) == 2
    warm = " | ".join(_draw(page, "a cute panda"))
    assert "Waking" not in warm, warm
    assert space.living().keys() == services.keys()
    with page.expect_download() as download:
        page.click("#result button[aria-label*=ownload], #result a[download]")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_closing_the_page_does_not_end_the_drawing(context: BrowserContext, space: Space) -> None:
    """The page is closed while drawing; opened again, it shows the picture that was asked for."""
    page = _open(context, space)
    page.get_by_role("button", name="More").click()
    page.get_by_label("Steps").fill("250")
    page.fill("#prompt textarea", "an owl")
    page.press("#prompt textarea", "Enter")
    # Looked at in every frame: on a fast machine even so many steps are over soon.
    page.wait_for_function("/Drawing: step/.test(document.querySelector('#status').innerText)", timeout=DRAW_MS)
    page.close()
    page = _open(context, space)
    expect(page.locator("#status")).to_have_text(re.compile("Done in"), timeout=DRAW_MS)
    expect(page.locator("#prompt textarea")).to_have_value("an owl")
    assert _pixels(page) == [256, 256]
