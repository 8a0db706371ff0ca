"""The strip of this browser's pictures and what can be done with one, in a real Chromium."""

import dataclasses
import re
import zipfile
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from drawing.jobs import Jobs
from tests.support.page_service import picture
from tests.support.processes import wait_until
from tests.support.visits import TOUCH, Visit, wait_until_ready

pytestmark = [pytest.mark.slow]

# Puts entries into the album as if they had been drawn long ago: how many, and how large each says that it is.
_FILL_ALBUM = """([count, bytes]) => new Promise((resolve) => {
    const request = indexedDB.open("text-to-image", 1);
    request.onsuccess = () => {
        const transaction = request.result.transaction(["pictures", "files"], "readwrite");
        for (let at = 1; at <= count; at++) {
            const picture = { id: `old-${at}`, at, bytes, prompt: `old ${at}`, seed: at, name: `old-${at}.png` };
            transaction.objectStore("pictures").put({ ...picture, thumb: new Blob(["x"]) });
            transaction.objectStore("files").put(new Blob(["x"]), picture.id);
        }
        transaction.oncomplete = () => (request.result.close(), resolve());
    };
})"""
_NO_STORAGE = """for (const name of ["indexedDB", "localStorage", "sessionStorage"]) {
    const get = () => { throw new DOMException("denied", "SecurityError"); };
    Object.defineProperty(window, name, { configurable: true, get });
}"""
_NOTE_SHARED = """() => {
    navigator.canShare = ({ files }) => files.length === 1;
    navigator.share = async ({ files, text }) => { window.shared = [files[0].name, files[0].size, text]; };
}"""


def _draw(visit: Visit, prompt: str) -> None:
    before = visit.page.locator("#strip li").count()
    visit.ask(prompt)
    expect(visit.page.locator("#strip li")).to_have_count(before + 1)
    expect(visit.page.locator("#draw")).to_be_enabled()


def _prompts(page: Page) -> list[str]:
    prompts: list[str] = page.locator("#strip .one").evaluate_all("buttons => buttons.map((button) => button.title)")
    return prompts


def test_pictures_outlive_a_reload_and_the_pages_server(open_page: Callable[..., Visit]) -> None:
    """Drawn pictures stand in the strip, the newest first; when the page is opened again and its server knows nothing
    of them, they are there, the newest one large; a touch shows another one with all its settings in the fields.
    """
    visit = open_page(viewport={"width": 1280, "height": 844})
    page = visit.page
    page.get_by_role("button", name="More").click()
    page.get_by_label("Steps").fill("9")
    page.get_by_label("Negative prompt").fill("fog")
    page.get_by_text("Landscape", exact=True).click()
    _draw(visit, "a castle")
    page.get_by_label("Steps").fill("")
    page.get_by_label("Negative prompt").fill("")
    page.get_by_text("Square", exact=True).click()
    _draw(visit, "an owl")
    assert _prompts(page) == ["an owl", "a castle"]

    visit.service.jobs = Jobs()  # as after a restart
    page.reload()
    wait_until_ready(page)
    expect(page.locator("#result img")).to_have_attribute("alt", "an owl")
    assert _prompts(page) == ["an owl", "a castle"]
    page.locator("#strip .one").last.click()
    expect(page.locator("#result img")).to_have_attribute("alt", "a castle")
    expect(page.locator("#prompt textarea")).to_have_value("a castle")
    expect(page.locator("#caption")).to_contain_text("512 × 384 · seed 42 · 20 steps")  # noqa: RUF001
    page.get_by_role("button", name="More").click()
    expect(page.get_by_label("Another seed each time")).not_to_be_checked()
    visit.page.click("#draw")
    visit.says(re.compile("Done"))
    request = visit.service.started[-1].request
    assert (request.num_inference_steps, request.negative_prompt, request.seed) == (9, "fog", 42)
    assert (request.width, request.height) == (512, 384)


def test_pictures_are_deleted_and_come_back(open_page: Callable[..., Visit]) -> None:
    """One picture or all are deleted at once; that can be taken back; what is deleted is not there after a reload,
    though the page's server still knows it.
    """
    visit = open_page()
    page, one = visit.page, visit.page.locator("#strip li")
    _draw(visit, "a castle")
    _draw(visit, "an owl")
    one.filter(has=page.get_by_role("button", name="Show: a castle")).get_by_label("Delete").click()
    expect(one).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(one).to_have_count(2)
    page.get_by_role("button", name="Delete all").click()
    expect(one).to_have_count(0)
    expect(page.locator("#result img")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(one).to_have_count(2)
    expect(page.locator("#result img")).to_have_attribute("alt", "an owl")

    page.get_by_role("button", name="Delete all").click()
    expect(one).to_have_count(0)
    page.reload()
    wait_until_ready(page)
    visit.says(re.compile("Done"))  # the page's server tells of the last one
    expect(page.locator("#strip header")).to_be_hidden()
    _draw(visit, "a fox")
    assert _prompts(page) == ["a fox"]


def test_the_strip_holds_so_much(open_page: Callable[..., Visit]) -> None:
    """The strip holds 100 pictures or 50 MB: the oldest go, and that is told."""
    visit = open_page()
    page = visit.page
    page.evaluate(_FILL_ALBUM, [100, 1000])
    visit.ask("a castle")
    expect(page.get_by_text("The strip holds 100 pictures")).to_be_visible()
    expect(page.locator("#strip li")).to_have_count(100)
    assert _prompts(page)[::99] == ["a castle", "old 2"]
    page.evaluate(_FILL_ALBUM, [100, 20_000_000])
    _ask_again(visit, "an owl")
    expect(page.locator("#strip li")).to_have_count(4)  # those two, and two large ones of 20 MB
    assert _prompts(page)[:2] == ["an owl", "a castle"]


def _ask_again(visit: Visit, prompt: str) -> None:
    visit.ask(prompt)
    expect(visit.page.locator("#result img")).to_have_attribute("alt", prompt)


def test_all_pictures_as_one_file(open_page: Callable[..., Visit]) -> None:
    """Download all gives a ZIP file with every picture as the server made it, under different names."""
    visit = open_page(viewport={"width": 1280, "height": 844})
    _draw(visit, "a castle")
    _draw(visit, "a castle")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a-castle-42.png", "a-castle-42-2.png"]
        made = picture(visit.service.started[-1].request, 42).encoded
        assert [archive.read(name) for name in archive.namelist()] == [made, made]


def test_a_browser_that_keeps_nothing(open_page: Callable[..., Visit]) -> None:
    """Where the browser refuses every storage, pictures are drawn and stand in the strip, which says how long."""
    visit = open_page(script=_NO_STORAGE)
    errors: list[str] = []
    visit.page.on("pageerror", lambda error: errors.append(str(error)))
    expect(visit.page.locator("#strip")).to_contain_text("This browser keeps no pictures for this page")
    _draw(visit, "a castle")
    _draw(visit, "an owl")
    visit.page.locator("#strip .one").last.click()
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a castle")
    assert errors == []


def test_save_share_and_copy_the_link(open_page: Callable[..., Visit]) -> None:
    """Save gives the file as the server made it; Share hands the file to the phone, elsewhere the picture is copied;
    the copied link fills another visitor's page, and draws nothing.
    """
    visit = open_page(permissions=["clipboard-read", "clipboard-write"])
    page = visit.page
    page.get_by_role("button", name="More").click()
    page.get_by_label("Steps").fill("9")
    page.get_by_label("Guidance").fill("7,5")
    page.get_by_text("Portrait", exact=True).click()
    _draw(visit, "a castle & an owl")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "a-castle-an-owl-42.png"
    made = picture(visit.service.started[-1].request, 42).encoded
    assert download.value.path().read_bytes() == made
    page.click("#share")
    expect(page.get_by_text("The picture is copied")).to_be_visible()
    types = page.evaluate("navigator.clipboard.read().then(([item]) => item.types)")
    assert types == ["image/png"]
    page.evaluate(_NOTE_SHARED)
    page.click("#share")
    wait_until("the picture to be shared", lambda: page.evaluate("window.shared"))
    assert page.evaluate("window.shared") == ["a-castle-an-owl-42.png", len(made), "a castle & an owl"]

    page.click("#copy-link")
    expect(page.get_by_text("Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    drawings = len(visit.service.started)
    other = open_page(address="?" + link.split("?", 1)[1])
    expect(other.page.locator("#prompt textarea")).to_have_value("a castle & an owl")
    assert len(visit.service.started) == drawings
    other.page.click("#draw")
    other.says(re.compile("seed 42"))
    first, again = (job.request for job in visit.service.started[-2:])
    assert again == dataclasses.replace(first, seed=42)


def test_again_and_the_same_seed(open_page: Callable[..., Visit]) -> None:
    """Again draws the shown picture's settings with another seed; Same seed keeps its seed, and draws at once if the
    words are others.
    """
    visit = open_page()
    page = visit.page
    page.get_by_role("button", name="More").click()
    page.fill("#seed input", "7")
    _draw(visit, "a castle")
    page.fill("#prompt textarea", "something else")
    page.click("#again")
    visit.says(re.compile("seed 42"))
    assert (visit.service.started[-1].request.prompt, visit.service.started[-1].request.seed) == ("a castle", None)

    drawings = len(visit.service.started)
    page.click("#same-seed")
    expect(page.get_by_text("Seed 42 is kept")).to_be_visible()
    expect(page.get_by_label("Another seed each time")).not_to_be_checked()
    assert len(visit.service.started) == drawings
    page.fill("#prompt textarea", "an owl")
    page.click("#same-seed")
    expect(page.locator("#result img")).to_have_attribute("alt", "an owl")
    assert visit.service.started[-1].request.seed == 42


def test_keys_and_fingers_leaf_through_the_strip(open_page: Callable[..., Visit]) -> None:
    """Arrows leaf through the strip, on the whole screen too; there a finger does the same, and closes."""
    visit = open_page(**TOUCH)
    page, shown = visit.page, visit.page.locator("#result img")
    for prompt in ("a castle", "an owl", "a fox"):
        _draw(visit, prompt)
    page.locator("#strip .one").first.focus()
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_attribute("alt", "an owl")
    shown.tap()
    expect(page.locator("#result")).to_have_class(re.compile("fullscreen"))
    page.keyboard.press("ArrowLeft")
    expect(shown).to_have_attribute("alt", "a fox")
    _swipe(page, (300, 400), (100, 410))
    expect(shown).to_have_attribute("alt", "an owl")
    _swipe(page, (200, 300), (210, 500))
    expect(page.locator("#result")).not_to_have_class(re.compile("fullscreen"))


def _swipe(page: Page, start: tuple[int, int], end: tuple[int, int]) -> None:
    touch = page.context.new_cdp_session(page)
    for kind, points in (("Start", [start]), ("Move", [end]), ("End", [])):
        event = {"type": f"touch{kind}", "touchPoints": [{"x": x, "y": y} for x, y in points]}
        touch.send("Input.dispatchTouchEvent", event)


def test_what_the_browser_keeps_is_told_to_nobody(open_page: Callable[..., Visit]) -> None:
    """Looking at the pictures of the strip asks the page's server for nothing."""
    visit = open_page()
    for prompt in ("a castle", "an owl"):
        _draw(visit, prompt)
    visit.page.reload()
    wait_until_ready(visit.page)
    expect(visit.page.locator("#result img")).to_be_visible()
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.page.locator("#strip .one").last.click()
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a castle")
    assert [url for url in asked if not url.startswith(("blob:", "data:")) and "app_id" not in url] == []
