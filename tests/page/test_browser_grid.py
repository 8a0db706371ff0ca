"""Several pictures at once, a larger one, and the scheduler, in a real Chromium."""

import io
import re
from collections.abc import Callable

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import Page, expect

from drawing.events import Picture
from drawing.jobs import Jobs
from drawing.models import Defaults, Limits, Range
from tests.support.page_service import picture
from tests.support.visits import TOUCH, Visit, wait_until_ready

pytestmark = [pytest.mark.slow]


def _choose(page: Page, count: int) -> None:
    page.locator("#count label").nth(count - 1).click()


def _more(page: Page, seed: int) -> None:
    page.get_by_role("button", name="More").click()
    page.fill("#seed input", str(seed))


def test_four_pictures_grow_into_a_grid(open_page: Callable[..., Visit]) -> None:
    """Each picture develops in its place of the grid and is there, in the strip too, while the others are still drawn;
    cancelled ones take nothing away. A touch opens one large, arrows leaf, Save saves the one that is chosen; a reload
    brings the grid again, though the page's server has forgotten all.
    """
    visit = open_page(**TOUCH)
    page, tiles = visit.page, visit.page.locator("#grid .tile")
    _more(page, 7)
    _choose(page, 4)
    visit.service.hold("drawing")
    visit.ask("a castle")
    visit.says("Drawing 4 pictures: step 32 of 80")
    expect(page.locator("#preview img")).to_have_count(4)
    jobs = visit.service.started[-4:]
    assert [job.request.seed for job in jobs] == [7, 8, 9, 10]
    for job in (jobs[1], jobs[2]):
        job.tell(Picture(picture(job.request, job.request.seed or 0)))
    visit.says(re.compile(r"2 of 4 pictures are there\. Drawing: step"))
    expect(tiles).to_have_count(2)
    expect(page.locator("#strip li")).to_have_count(2)
    box, frame = tiles.first.bounding_box(), page.locator("#frame").bounding_box()
    assert box
    assert frame
    assert box["x"] > frame["x"] + frame["width"] / 2  # in the place of the second one
    page.click("#cancel")
    visit.says("Cancelled. 2 of 4 pictures are there.")
    expect(page.locator("#preview img")).to_have_count(0)

    tiles.nth(1).tap()
    expect(page.locator("#result")).to_have_class(re.compile("fullscreen"))
    expect(page.locator("#caption")).to_contain_text("seed 9")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#caption")).to_contain_text("seed 8")
    page.keyboard.press("Escape")
    expect(page.locator("#result")).not_to_have_class(re.compile("fullscreen"))
    expect(tiles.first).to_have_attribute("aria-current", "true")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "a-castle-8.png"

    visit.service.jobs = Jobs()  # as after a restart
    visit.service.let("drawing")
    page.reload()
    wait_until_ready(page)
    expect(tiles).to_have_count(2)
    page.locator("#strip .one").last.click()
    expect(tiles).to_have_count(0)
    page.get_by_role("button", name="All 2").click()
    expect(tiles).to_have_count(2)
    page.locator("#strip .bin").last.click()
    expect(tiles).to_have_count(0)
    expect(page.locator("#result img")).to_be_visible()


def test_the_same_seed_and_a_larger_size(open_page: Callable[..., Visit]) -> None:
    """Same seed and Larger draw one picture, of the one that is chosen; Larger is there as far as the model goes."""
    visit = open_page(viewport={"width": 1280, "height": 844})
    page, service, larger = visit.page, visit.service, visit.page.locator("#larger")
    side = Range(min=64, max=400, multiple=64)
    service.model, service.limits = "tiny", Limits(width=side, height=side)
    service.defaults = Defaults(width=256, height=256)
    try:
        _more(page, 7)
        _choose(page, 2)
        visit.ask("a castle")
        visit.says(re.compile(r"2 pictures, seeds 7 to 8"))
        page.locator("#grid .tile").nth(1).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#caption")).to_contain_text("seed 8")
        larger.click()
        visit.says(re.compile("seed 8"))
        request = service.started[-1].request
        assert (request.width, request.height, request.seed, request.prompt) == (384, 384, 8, "a castle")
        expect(page.locator("#caption")).to_contain_text("384 × 384")  # noqa: RUF001
        expect(larger).to_be_hidden()
        expect(page.locator("#grid .tile")).to_have_count(0)
    finally:
        service.model, service.limits, service.defaults = None, Limits(), Defaults()


def test_the_scheduler(open_page: Callable[..., Visit]) -> None:
    """What the server offers can be chosen, goes into the link and comes back with the picture and from a PNG of any
    program; what it does not offer is told and left out.
    """
    visit = open_page(permissions=["clipboard-read", "clipboard-write"])
    page, service, field = visit.page, visit.service, visit.page.get_by_label("Scheduler")
    service.model = "tiny"
    service.limits = Limits(schedulers=("DDIMScheduler", "Euler a", "DPM++ 2M Karras"))
    service.defaults = Defaults(scheduler="DDIMScheduler")
    try:
        page.reload()
        wait_until_ready(page)
        page.get_by_role("button", name="More").click()
        field.click()
        names = ["The model's own (DDIMScheduler)", "Euler a", "DPM++ 2M Karras", "DDIMScheduler"]
        expect(page.get_by_role("option")).to_have_text([re.compile(re.escape(name)) for name in names])
        page.get_by_role("option", name="Euler a").click()
        visit.ask("a castle")
        visit.says(re.compile("Done"))
        assert service.started[-1].request.scheduler == "Euler a"
        expect(page.locator("#caption")).to_contain_text("Euler a")
        page.click("#copy-link")
        expect(page.get_by_text("Link copied")).to_be_visible()
        assert "&scheduler=Euler+a" in page.evaluate("navigator.clipboard.readText()")
        url = page.url.split("?")[0]
        page.goto(url + "?prompt=an+owl&scheduler=Heun")
        wait_until_ready(page)
        page.get_by_role("button", name="More").click()
        expect(page.get_by_text("There is no Heun here: the model's own is taken.")).to_be_visible()
        page.click("#draw")
        expect(page.locator("#result img")).to_have_attribute("alt", "an owl")
        assert service.started[-1].request.scheduler is None
        for sampler, value in (
            ("DPM++ 2M, Schedule type: Karras", "DPM++ 2M Karras"),
            ("DDIM", ""),
            ("Euler a", "Euler a"),
        ):
            page.set_input_files(
                "#open-picture input", {"name": "x.png", "mimeType": "image/png", "buffer": _png(sampler)}
            )
            expect(page.locator("#prompt textarea")).to_have_value(f"drawn by {sampler}")
            expect(field).to_have_value(re.compile(re.escape(value or "The model's own")))
    finally:
        service.model, service.limits, service.defaults = None, Limits(), Defaults()


def _png(sampler: str) -> bytes:
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("parameters", f"drawn by {sampler}\nSteps: 9, Sampler: {sampler}, CFG scale: 7, Seed: 3, Size: 64x64")
    Image.new("RGB", (64, 64)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def test_who_has_the_link_alone_cannot_cancel(open_page: Callable[..., Visit]) -> None:
    """With a link to another's drawing one sees it grow, and has Draw and no Cancel; the own drawing is another one."""
    visit = open_page()
    visit.service.hold("drawing")
    job = visit.service.submit("a castle")
    watched = open_page(address=f"?picture={job.id}")
    watched.says("Drawing: step 8 of 20")
    expect(watched.page.locator("#progress [role=progressbar]")).to_be_visible()
    expect(watched.page.locator("#cancel")).to_have_count(0)
    expect(watched.page.locator("#draw")).to_be_enabled()
    visit.service.let("drawing")
    expect(watched.page.locator("#result img")).to_have_attribute("alt", "a castle")
    visit.service.hold("drawing")
    watched.ask("an owl")
    expect(watched.page.locator("#cancel")).to_be_visible()
    visit.service.let("drawing")
    expect(watched.page.locator("#result img")).to_have_attribute("alt", "an owl")
