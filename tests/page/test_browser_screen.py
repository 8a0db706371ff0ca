"""What the page's scripts show beside Gradio's own: address, shapes, words, progress, keyboard, a dropped picture."""

import base64
import io
import re
from collections.abc import Callable

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import FilePayload, Page, expect

from page.ideas import styles, surprises
from tests.support.page_service import picture
from tests.support.visits import Visit, wait_until_ready

pytestmark = [pytest.mark.slow]

DESKTOP = {"width": 1280, "height": 844}

# Counts what moves without the visitor's doing. Source: web.dev, Cumulative Layout Shift.
_COUNT_SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
        const what = entry.sources.map(({ node }) => node?.id || node?.className || node?.nodeName);
        if (!entry.hadRecentInput) window.shifts.push([entry.value, ...what]);
    }
}).observe({ type: "layout-shift", buffered: true });"""
_HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
_GIVE = """([kind, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "found.png", { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "drop" ? new DragEvent("drop", { ...options, dataTransfer: transfer })
        : new ClipboardEvent("paste", { ...options, clipboardData: transfer });
    document.querySelector("#prompt textarea").dispatchEvent(event);
}"""


def test_an_address_fills_the_page_and_draws_nothing(open_page: Callable[..., Visit]) -> None:
    """The address' values stand in the fields, once: after a reload what was typed counts. What cannot be used is told
    by its name and left out, and nothing is drawn.
    """
    visit = open_page(address="?prompt=a+castle&negative_prompt=fog&seed=7&steps=9&guidance=2,5&width=640&height=448")
    page, drawings = visit.page, len(visit.service.started)
    expect(page.locator("#prompt textarea")).to_have_value("a castle")
    visit.says(re.compile("Ready when you are"))
    assert len(visit.service.started) == drawings
    page.click("#draw")
    visit.says(re.compile("seed 7"))
    request = visit.service.started[-1].request
    assert (request.negative_prompt, request.num_inference_steps, request.guidance_scale) == ("fog", 9, 2.5)
    assert (request.width, request.height) == (640, 448)
    page.fill("#prompt textarea", "an owl")
    page.reload()
    wait_until_ready(page)
    expect(page.locator("#prompt textarea")).to_have_value("an owl")

    page.goto(page.url.split("?")[0] + "?prompt=a+castle&seed=-3&steps=many&guidance=99&width=511&height=512")
    wait_until_ready(page)
    expect(page.get_by_text("values that cannot be used here: seed, steps, guidance, width.")).to_be_visible()
    page.click("#draw")
    visit.says(re.compile("seed 42"))
    request = visit.service.started[-1].request
    assert (request.prompt, request.seed, request.num_inference_steps, request.width) == ("a castle", None, None, None)


def test_shapes_and_words_for_one_touch(open_page: Callable[..., Visit]) -> None:
    """A touch chooses the shape; a style's words stand in the prompt and go with a second touch, one style at a time;
    Surprise me writes a whole prompt.
    """
    visit = open_page()
    page, prompt = visit.page, visit.page.locator("#prompt textarea")
    shapes = page.locator("#size label")
    expect(shapes).to_have_text(["Square", "Portrait", "Landscape"])
    shapes.nth(1).click()
    prompt.fill("a castle")
    for style in ("Comic", "Photo"):
        page.get_by_role("button", name=style, exact=True).click()
        expect(prompt).to_have_value(f"a castle, {styles()[style]}")
    expect(page.get_by_role("button", name="Photo", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Comic", exact=True)).to_have_attribute("aria-pressed", "false")
    page.click("#draw")
    visit.says(re.compile("Done"))
    request = visit.service.started[-1].request
    assert (request.prompt, request.width, request.height) == (f"a castle, {styles()['Photo']}", 384, 512)
    page.get_by_role("button", name="Photo", exact=True).click()
    expect(prompt).to_have_value("a castle")
    page.get_by_role("button", name="Surprise me").click()
    expect(prompt).not_to_have_value("a castle")
    assert prompt.input_value() in surprises(demo=True)

    page.get_by_role("button", name="More").click()
    page.locator("#size-list input").fill("640 × 448")  # noqa: RUF001
    page.locator("#size-list input").press("Enter")
    expect(page.locator("#size input:checked")).to_have_count(0)
    page.click("#draw")
    visit.says(re.compile("Done"))
    assert visit.service.started[-1].request.width == 640


@pytest.mark.parametrize("viewport", [{"width": 390, "height": 844}, DESKTOP])
def test_progress_is_told_and_nothing_jumps(open_page: Callable[..., Visit], viewport: dict[str, int]) -> None:
    """While drawing a bar shows the steps, and after three seconds without one that is told; until the picture is there
    nothing jumps, and little while the page is opened again.
    """
    visit = open_page(script=_COUNT_SHIFTS, viewport=viewport)
    page, bar = visit.page, visit.page.get_by_role("progressbar")
    expect(bar).to_have_count(0)  # hidden
    page.evaluate("window.shifts = []")
    visit.service.hold("waking")
    visit.service.hold("drawing")
    visit.ask("a castle")
    expect(page.locator("#status .seconds")).to_have_text(re.compile(r"· \d+ s"))
    expect(bar).to_be_visible()
    assert bar.get_attribute("aria-valuenow") is None
    visit.service.let("waking")
    expect(bar).to_have_attribute("aria-valuenow", "40")
    expect(page.get_by_text(re.compile(r"no step for \d+ s"))).to_be_visible()
    visit.service.let("drawing")
    visit.says(re.compile("Done"))
    expect(bar).to_have_count(0)
    expect(page.locator("#strip li")).to_have_count(1)
    page.locator("#result img").evaluate("image => image.decode()")
    assert sum(shift[0] for shift in page.evaluate("window.shifts")) < 0.01, page.evaluate("window.shifts")
    page.reload()
    wait_until_ready(page)
    expect(page.locator("#strip li")).to_have_count(1)
    page.locator("#result img").evaluate("image => image.decode()")
    assert sum(shift[0] for shift in page.evaluate("window.shifts")) < 0.2, page.evaluate("window.shifts")


def test_who_is_elsewhere_is_told(open_page: Callable[..., Visit]) -> None:
    """The tab's title and icon tell that a picture is ready, until the visitor is back."""
    visit = open_page()
    title = visit.page.title()
    visit.service.hold("drawing")
    visit.ask("a castle")
    expect(visit.page).to_have_title(f"… {title}")
    visit.page.evaluate(_HIDE, True)
    visit.service.let("drawing")
    expect(visit.page).to_have_title(f"✓ Your picture is ready: {title}")
    icon = visit.page.locator("link[rel~=icon]").first
    assert (icon.get_attribute("href") or "").startswith("data:image/svg+xml,")
    visit.page.evaluate(_HIDE, False)
    expect(visit.page).to_have_title(title)


def test_keys(open_page: Callable[..., Visit]) -> None:
    """A desktop's prompt has the focus; Shift+Enter begins a line, Ctrl+Enter draws from any field, Escape cancels."""
    visit = open_page(viewport=DESKTOP)
    page = visit.page
    expect(page.locator("#prompt textarea")).to_be_focused()
    page.keyboard.type("a castle")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("by the sea")
    expect(page.locator("#prompt textarea")).to_have_value("a castle\nby the sea")
    page.get_by_role("button", name="More").click()
    page.get_by_label("Steps").fill("1e1")
    visit.service.hold("drawing")
    page.keyboard.press("Control+Enter")
    visit.says("Drawing: step 8 of 20")
    assert visit.service.started[-1].request.num_inference_steps == 10
    page.keyboard.press("Escape")
    visit.says("Cancelled. Nothing was drawn.")


def test_an_error_is_tied_to_its_field(open_page: Callable[..., Visit]) -> None:
    """A field whose value was refused is marked and described by the sentence that says why, until it is changed."""
    visit = open_page()
    visit.page.get_by_role("button", name="More").click()
    steps = visit.page.get_by_label("Steps")
    steps.fill("999")
    visit.ask("a castle")
    expect(steps).to_have_attribute("aria-invalid", "true")
    described = visit.page.locator(f"#{steps.get_attribute('aria-describedby')}")
    expect(described).to_have_text("Steps must be from 1 to 250, not 999.")
    steps.fill("9")
    expect(steps).not_to_have_attribute("aria-invalid", "true")


_A1111 = """a castle, oil painting
by the sea
Negative prompt: fog, people
Steps: 9, Sampler: Euler a, CFG scale: 2.5, Seed: 77, Size: 640x448, Model: someone's"""


def test_a_picture_brings_its_settings_back(open_page: Callable[..., Visit]) -> None:
    """A picture that is dropped, pasted or opened fills the fields, from the text that most programs write or from our
    own; the browser reads it, and sends it nowhere.
    """
    visit = open_page(viewport=DESKTOP)
    page = visit.page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    _give(page, "drop", parameters=_A1111)
    expect(page.locator("#prompt textarea")).to_have_value("a castle, oil painting\nby the sea")
    expect(page.locator("#result img")).to_have_attribute("alt", "a castle, oil painting\nby the sea")
    expect(page.locator("#caption")).to_contain_text("seed 77 · 9 steps · someone's")
    page.get_by_role("button", name="More").click()
    for label, value in {"Negative prompt": "fog, people", "Steps": "9", "Guidance": "2.5", "Seed": "77"}.items():
        expect(page.get_by_label(label).first).to_have_value(value)
    expect(page.locator("#size-list input")).to_have_value("640x448")

    _give(page, "paste", prompt="ein Schloß", seed="5")
    expect(page.locator("#prompt textarea")).to_have_value("ein Schloß")
    expect(page.locator("#seed input")).to_have_value("5")
    page.set_input_files("#open-picture input", _file(parameters=_A1111))
    expect(page.locator("#seed input")).to_have_value("77")
    _give(page, "drop")
    expect(page.get_by_text("This picture does not tell how it was made.")).to_be_visible()
    assert sent == []
    _give(page, "drop", prompt="x" * 3_000_000)  # a hostile picture, which would freeze the field
    expect(page.locator("#prompt textarea")).to_have_value("x" * 2000)
    page.set_input_files("#open-picture input", _file(parameters=_A1111))
    expect(page.locator("#seed input")).to_have_value("77")
    page.click("#draw")
    visit.says(re.compile("Done"))
    assert picture(visit.service.started[-1].request, 77).encoded


def _file(**texts: str) -> FilePayload:
    """A small PNG with these texts as metadata: compressed and in Unicode where they are no Latin-1."""
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        if key == "parameters":
            info.add_text(key, text, zip=True)
        else:
            info.add_itxt(key, text, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "PNG", pnginfo=info)
    return {"name": "found.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def _give(page: Page, how: str, **texts: str) -> None:
    page.evaluate(_GIVE, [how, base64.b64encode(_file(**texts)["buffer"]).decode("ascii")])
