"""The page in a real Chromium, in front of a stand-in service: what a visitor sees and does."""

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from errors import Absence, AwayError, BusyError, EndpointUnreachableError
from page import text as page_text
from tests.support.page_service import StandInService, picture, serve
from tests.support.processes import REPOSITORY, wait_until
from tests.support.visits import PHONE, TOUCH, Visit, wait_until_ready

pytestmark = pytest.mark.slow


def _expect_on_first_screen(page: Page, *selectors: str) -> None:
    for selector in selectors:
        expect(page.locator(selector)).to_be_in_viewport(ratio=1)


def test_first_screen_of_a_phone(open_page: Callable[..., Visit]) -> None:
    """Prompt, Draw and the picture share the first screen of a phone, before and after a drawing."""
    visit = open_page()
    parts = ("#prompt", "#draw", "#result")
    _expect_on_first_screen(visit.page, *parts)
    visit.ask("a red apple")
    visit.page.locator("#result img").evaluate("image => image.decode()")  # until then it takes no room
    _expect_on_first_screen(visit.page, *parts)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_every_stage_is_told(open_page: Callable[..., Visit]) -> None:
    """From the cold start to the picture, one sentence names the stage, with seconds while waiting."""
    visit = open_page()
    for gate in ("waking", "queued", "drawing"):
        visit.service.hold(gate)
    visit.ask("a red apple")
    visit.says(re.compile(r"Waking the machine that draws… · \d+ s"))
    expect(visit.page.locator("#draw")).to_be_disabled()
    expect(visit.page.locator("#cancel")).to_be_visible()
    visit.service.let("waking")
    visit.says(re.compile("You are number 3 in line"))
    visit.service.let("queued")
    visit.says("Drawing: step 8 of 20")
    expect(visit.page.locator("#preview img")).to_be_visible()
    visit.service.let("drawing")
    visit.says(re.compile(r"Done in [\d.]+ s, seed 42"))
    expect(visit.page.locator("#draw")).to_be_enabled()
    expect(visit.page.locator("#cancel")).to_have_count(0)
    expect(visit.page.locator("#preview img")).to_have_count(0)


def test_a_pause_ends_at_a_time_on_the_visitors_clock(open_page: Callable[..., Visit]) -> None:
    """Until when the machine is paused stands there in the visitor's own time and language, and the next sentence
    replaces it.
    """
    visit = open_page(timezone_id="Asia/Tokyo", locale="de-DE")
    until = datetime.now(UTC).replace(hour=11, minute=5, second=0) + timedelta(days=3)
    absence = Absence("paused", until=until.timestamp())
    visit.service.fail_with = AwayError("Workers", tried="draw", came_back="x", next_step="y", absence=absence)
    visit.ask("a red apple")
    days = ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag")
    told = f"Der Zeichenrechner macht bis {days[until.weekday()]}, 20:05 Pause. Bitte komm dann wieder."
    visit.says(re.compile(re.escape(told)))
    visit.service.fail_with = None
    visit.ask("a red apple")
    visit.says(re.compile(r"Fertig in \d+,\d s, Seed 42"))
    assert visit.page.evaluate("document.documentElement.lang") == "de"  # Gradio sets it as well
    expect(visit.page.locator("#caption")).to_contain_text("Seed 42 · 20 Schritte")
    expect(visit.page.locator("#again")).to_have_text("Noch eins")


def test_the_picture_is_described_and_its_seed_shown(open_page: Callable[..., Visit]) -> None:
    """The picture's alternative text is its prompt, and the seed that was used stands in its field."""
    visit = open_page()
    visit.ask("a sailing boat")
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a sailing boat")
    expect(visit.page.locator("#seed input")).to_have_value("42")


def test_a_seed_of_ones_own(open_page: Callable[..., Visit]) -> None:
    """A seed that is typed is used, and again until another one each time is asked for; the other fields hold the
    model's own.
    """
    visit = open_page()
    another = visit.page.get_by_label("Another seed each time")
    visit.page.get_by_role("button", name="More").click()
    visit.ask("a castle")
    visit.says(re.compile("seed 42"))
    expect(visit.page.locator("#seed input")).to_have_value("42")
    expect(another).to_be_checked()  # the page's own news of the seed is no wish of the visitor's
    visit.page.fill("#seed input", "7")
    expect(another).not_to_be_checked()
    visit.page.get_by_label("Steps").fill("9")
    visit.ask("a castle")
    visit.says(re.compile("seed 7"))
    request = visit.service.started[-1].request
    assert (request.seed, request.num_inference_steps, request.guidance_scale, request.width) == (7, 9, None, None)


def test_bad_input_is_told_at_once(open_page: Callable[..., Visit]) -> None:
    """An empty prompt or a value outside the limits is refused with its reason, and the next prompt is drawn."""
    visit = open_page()
    visit.page.click("#draw")
    visit.says("Please type what you would like to see: the prompt is empty.")
    visit.page.get_by_role("button", name="More").click()
    visit.page.get_by_label("Steps").fill("999")
    visit.ask("a castle")
    visit.says("Steps must be from 1 to 250, not 999.")
    visit.page.get_by_label("Steps").fill("")
    visit.ask("a castle")
    visit.says(re.compile("Done"))


def test_words_that_were_not_used_are_told(open_page: Callable[..., Visit]) -> None:
    """Where the model reads only the beginning of a prompt, the rest stands in one line below the sentence, as text."""
    visit = open_page()
    visit.service.words_read = 2
    visit.ask("a castle <b>by</b> the sea, in the evening sun, with boats, gulls, rocks, clouds, a dog and a tower")
    visit.says(re.compile(r"Done in [\d.]+ s, seed 42"))
    line = visit.page.locator("#status .unused")
    expect(line).to_contain_text("Not used: “<b>by</b> the sea, in the evening sun, with boats, gulls, rocks, clouds,”")
    expect(line).to_contain_text("and 5 more words.")
    visit.ask("a castle")
    expect(line).to_have_count(0)


def test_cancel_ends_the_drawing_and_keeps_the_last_picture(open_page: Callable[..., Visit]) -> None:
    """Cancel ends the drawing at once; the picture before stays, with its description."""
    visit = open_page()
    visit.ask("a castle")
    expect(visit.page.locator("#result img")).to_be_visible()
    visit.service.hold("drawing")
    visit.ask("an owl")
    visit.says("Drawing: step 8 of 20")
    visit.page.click("#cancel")
    visit.says("Cancelled. Nothing was drawn.")
    expect(visit.page.locator("#draw")).to_be_enabled()
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a castle")
    assert visit.service.started[-1].cancel_requested.is_set()


def test_trouble_is_told_kindly_with_details_apart(open_page: Callable[..., Visit]) -> None:
    """When the chain fails, a kind sentence is shown, the details can be opened, and the last picture stays."""
    visit = open_page()
    visit.ask("a castle")
    expect(visit.page.locator("#result img")).to_be_visible()
    visit.service.fail_with = EndpointUnreachableError(
        "Tunnel", how="refused", tried="reach port 8080", came_back="refused", next_step="Is the box on?"
    )
    visit.ask("an owl")
    expect(visit.page.locator("#status .error")).to_contain_text("The machine that draws cannot be reached right now.")
    expect(visit.page.get_by_text("Is the box on?")).to_be_hidden()
    visit.page.get_by_text("Details for the maintainer").click()
    expect(visit.page.get_by_text("Is the box on?")).to_be_visible()
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a castle")
    visit.service.fail_with = None
    visit.ask("an owl")
    visit.says(re.compile("Done"))


def test_busy_is_told(open_page: Callable[..., Visit]) -> None:
    """Where too many are waiting, the sentence begins with `Busy:` and says when to try again."""
    visit = open_page()
    visit.service.refuse_with = BusyError("500 drawings are under way.")
    visit.ask("an owl")
    visit.says("Busy: 500 drawings are under way. Please try again in 5 s.")
    expect(visit.page.locator("#draw")).to_be_enabled()


def test_one_drawing_at_a_time(open_page: Callable[..., Visit]) -> None:
    """Pressing Enter again while drawing starts nothing more, and says so."""
    visit = open_page()
    visit.service.hold("drawing")
    before = len(visit.service.started)
    visit.ask("a castle")
    visit.ask("an owl")
    expect(visit.page.get_by_text("One picture at a time").first).to_be_visible()  # now: it stays for 10 s only
    visit.says("Drawing: step 8 of 20")
    visit.service.let("drawing")
    visit.says(re.compile("Done"))
    assert len(visit.service.started) == before + 1


def test_a_double_click_draws_once(open_page: Callable[..., Visit]) -> None:
    """Two clicks in one go are one wish."""
    visit = open_page()
    visit.service.hold("drawing")
    before = len(visit.service.started)
    visit.page.fill("#prompt textarea", "a castle")
    # Both before any news: Draw is disabled then. That the second one has come is told, and only after that it counts.
    visit.page.locator("#draw").evaluate("button => { button.click(); button.click(); }")
    expect(visit.page.get_by_text("One picture at a time").first).to_be_visible()
    visit.says("Drawing: step 8 of 20")
    visit.service.let("drawing")
    visit.says(re.compile("Done"))
    assert len(visit.service.started) == before + 1


@pytest.mark.parametrize("width", [PHONE["width"], 1280])
def test_nothing_moves_when_a_drawing_begins(open_page: Callable[..., Visit], width: int) -> None:
    """Draw and the picture's frame keep their places, and Cancel appears where nothing else was."""
    visit = open_page(viewport={"width": width, "height": 844})
    visit.service.hold("drawing")
    places = [visit.page.locator(part).bounding_box() for part in ("#draw", "#result", "#examples")]
    visit.ask("a castle")
    visit.says("Drawing: step 8 of 20")
    expect(visit.page.locator("#cancel")).to_be_visible()
    assert [visit.page.locator(part).bounding_box() for part in ("#draw", "#result", "#examples")] == places
    cancel, draw = visit.page.locator("#cancel").bounding_box(), places[0]
    assert cancel
    assert draw
    assert cancel["y"] >= draw["y"] + draw["height"]


def test_a_double_tap_does_not_cancel(open_page: Callable[..., Visit]) -> None:
    """A tap on Cancel within half a second of one on Draw counts for nothing; a later one cancels."""
    visit = open_page()
    visit.service.hold("drawing")
    visit.ask("a castle")
    visit.says("Drawing: step 8 of 20")
    expect(visit.page.locator("#cancel")).to_be_visible()
    tapped_at = visit.page.evaluate(
        """() => {
            for (const button of document.querySelectorAll("#draw, #cancel")) {
                button.disabled = false;  // as it was when the first tap began
                button.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, detail: 1 }));
            }
            return performance.now();
        }"""
    )
    expect(visit.page.get_by_text("One picture at a time").first).to_be_visible()  # the first one has come
    assert not visit.service.started[-1].cancel_requested.is_set()
    visit.page.wait_for_function("tapped_at => performance.now() > tapped_at + 500", arg=tapped_at)
    visit.page.click("#cancel")
    visit.says("Cancelled. Nothing was drawn.")


def test_a_page_opened_again_finds_its_drawing(open_page: Callable[..., Visit]) -> None:
    """Closed while drawing and opened again, the page shows the running drawing; once more, the finished one."""
    first = open_page()
    first.service.hold("drawing")
    first.ask("a castle")
    first.says("Drawing: step 8 of 20")
    context = first.page.context
    first.page.close()

    again = open_page(context)
    again.says("Drawing: step 8 of 20")
    expect(again.page.locator("#prompt textarea")).to_have_value("a castle")
    again.ask("an owl")
    expect(again.page.get_by_text("One picture at a time").first).to_be_visible()
    again.service.let("drawing")
    expect(again.page.locator("#result img")).to_have_attribute("alt", "a castle")
    again.page.close()

    once_more = open_page(context)
    once_more.says(re.compile(r"Done in [\d.]+ s, seed 42"))
    expect(once_more.page.locator("#result img")).to_have_attribute("alt", "a castle")
    once_more.ask("an owl")
    expect(once_more.page.locator("#result img")).to_have_attribute("alt", "an owl")


def test_cancel_after_opening_again(open_page: Callable[..., Visit]) -> None:
    """A drawing that was found again can be cancelled, and is not looked for any more."""
    first = open_page()
    first.service.hold("drawing")
    first.ask("a castle")
    first.says("Drawing: step 8 of 20")
    first.page.reload()
    wait_until_ready(first.page)
    first.says("Drawing: step 8 of 20")
    first.page.click("#cancel")
    first.says("Cancelled. Nothing was drawn.")
    looked_for = len(first.service.looked_for)
    first.page.reload()
    wait_until("the opened page to look for its drawing", lambda: len(first.service.looked_for) > looked_for)
    assert first.service.started[-1].id not in first.service.looked_for[looked_for:]
    first.says(re.compile("Ready when you are"))


def test_what_was_typed_outlives_a_reload(open_page: Callable[..., Visit]) -> None:
    """After a reload the fields hold what was typed, beside the last picture; another tab knows nothing of it."""
    visit = open_page()
    visit.ask("a castle")
    visit.says(re.compile("Done"))  # before that the browser may not have been told of the job yet
    visit.page.get_by_role("button", name="More").click()
    visit.page.get_by_label("Steps").fill("9")
    visit.page.fill("#prompt textarea", "half a prom")
    visit.page.reload()
    wait_until_ready(visit.page)
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a castle")
    expect(visit.page.locator("#prompt textarea")).to_have_value("half a prom")
    visit.page.get_by_role("button", name="More").click()
    expect(visit.page.get_by_label("Steps")).to_have_value("9")
    expect(visit.page.get_by_label("Another seed each time")).to_be_checked()

    other = open_page(visit.page.context)
    expect(other.page.locator("#prompt textarea")).to_have_value("a castle")  # of the drawing that it finds
    other.page.get_by_role("button", name="More").click()
    expect(other.page.get_by_label("Steps")).to_have_value("")


def test_a_visitor_without_a_connection_is_told(open_page: Callable[..., Visit]) -> None:
    """Offline, the page says so in place of its last sentence, and no longer than it is true; the rest stays."""
    visit = open_page()
    visit.ask("a castle")
    visit.says(re.compile("Done"))
    visit.page.fill("#prompt textarea", "half a prom")
    visit.page.context.set_offline(True)
    expect(visit.page.get_by_text("This page is offline just now.")).to_be_visible()
    expect(visit.page.locator("#status")).to_be_hidden()
    visit.page.context.set_offline(False)
    expect(visit.page.get_by_text("This page is offline just now.")).to_be_hidden()
    expect(visit.page.locator("#status")).to_be_visible()
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "a castle")
    expect(visit.page.locator("#prompt textarea")).to_have_value("half a prom")


def test_a_page_whose_server_was_gone_goes_on(browser: Browser) -> None:
    """When the page's server ends while drawing, the page says so; when another one is there, the page can draw again,
    and the prompt still stands in its field.
    """
    service = StandInService()
    server, url = serve(service)
    context = browser.new_context()
    visit = Visit(context.new_page(), service)
    try:
        visit.page.goto(url)
        wait_until_ready(visit.page)
        service.hold("drawing")
        visit.ask("a castle")
        visit.says("Drawing: step 8 of 20")
        visit.page.fill("#prompt textarea", "half a prom")
        server.close(verbose=False)
        visit.page.evaluate("dispatchEvent(new Event('offline'))")  # it would look by itself every 10 s
        expect(visit.page.get_by_text("This page is offline just now.")).to_be_visible()

        with visit.page.expect_navigation(timeout=60_000):  # from before the server is back: the page looks every 10 s
            server, _ = serve(StandInService(), port=urlsplit(url).port)
        wait_until_ready(visit.page)
        expect(visit.page.locator("#prompt textarea")).to_have_value("half a prom")
        visit.ask("an owl")
        visit.says(re.compile("Done"))
    finally:
        service.let("drawing")
        context.close()
        server.close(verbose=False)


def test_examples_fill_the_prompt(open_page: Callable[..., Visit]) -> None:
    """An example fills the prompt, which a phone then shows together with Draw: one touch away from being drawn."""
    visit = open_page(**TOUCH)
    example = page_text.DEMO_EXAMPLES[-1]
    visit.page.get_by_role("button", name="More").tap()  # a page that is long enough, whatever is said above
    visit.page.locator("#size-list").scroll_into_view_if_needed()
    expect(visit.page.locator("#draw")).not_to_be_in_viewport()
    visit.page.get_by_role("button", name=example).tap()
    expect(visit.page.locator("#prompt textarea")).to_have_value(example)
    for part in ("#prompt textarea", "#draw"):
        expect(visit.page.locator(part)).to_be_in_viewport(ratio=1)


def test_enter_on_a_phone_puts_the_keyboard_away(open_page: Callable[..., Visit]) -> None:
    """On a phone the field of the prompt gives up the focus with Enter, and its keyboard goes; elsewhere it stays."""
    phone, desktop = open_page(**TOUCH), open_page()
    assert phone.page.get_attribute("#prompt textarea", "enterkeyhint") == "go"
    for visit in (phone, desktop):
        visit.ask("a castle")
        visit.says(re.compile("Done"))
    expect(phone.page.locator("#prompt textarea")).not_to_be_focused()
    expect(desktop.page.locator("#prompt textarea")).to_be_focused()


def test_fields_on_a_phone_are_large_enough(open_page: Callable[..., Visit]) -> None:
    """No field has text below 16 px on a phone: an iPhone would zoom into it and stay there."""
    visit = open_page()
    sizes = visit.page.locator("#page :is(input:not([type=checkbox], [type=radio]), textarea)").evaluate_all(
        "fields => fields.map(field => parseFloat(getComputedStyle(field).fontSize))"
    )
    assert len(sizes) >= 6
    assert min(sizes) >= 16


def test_everything_to_touch_is_large_enough(open_page: Callable[..., Visit]) -> None:
    """On a phone nothing that is touched is lower than 44 px, the field "Another seed each time" with its words."""
    visit = open_page(**TOUCH)
    visit.page.get_by_role("button", name="More").tap()
    visit.ask("a castle")
    expect(visit.page.locator("#result img")).to_be_visible()
    visit.page.evaluate("document.querySelector('#more').scrollIntoView()")
    low = visit.page.locator("button, a, summary, input, textarea").evaluate_all(
        """touched => touched
            .map(one => one.type === "checkbox" ? one.closest("label") : one)
            .filter(one => one.getClientRects().length && one.getBoundingClientRect().height < 44)
            .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert low == []


def test_more_says_whether_it_is_open(open_page: Callable[..., Visit]) -> None:
    """A screen reader is told whether "More" is open."""
    more = open_page().page.get_by_role("button", name="More")
    expect(more).to_have_attribute("aria-expanded", "false")
    more.click()
    expect(more).to_have_attribute("aria-expanded", "true")
    more.click()
    expect(more).to_have_attribute("aria-expanded", "false")


@pytest.mark.parametrize(("prompt", "begins"), [("a castle", "left"), ("قلعة", "right")])
def test_a_prompt_begins_where_its_language_does(open_page: Callable[..., Visit], prompt: str, begins: str) -> None:
    """A prompt in Arabic stands on the right of its field, one in English on the left."""
    page = open_page().page
    field = page.locator("#prompt textarea")
    field.fill(prompt)
    shot = Image.open(io.BytesIO(field.screenshot(caret="hide", animations="disabled"))).convert("L")
    inside = shot.crop((8, 8, shot.width - 8, shot.height - 8))  # without the border
    ink = inside.point(lambda level: 255 if level < 128 else 0).getbbox()
    assert ink
    assert begins == ("left" if ink[0] < inside.width - ink[2] else "right")


def test_forced_colours_leave_buttons_visible(open_page: Callable[..., Visit]) -> None:
    """Where the system forces its colours, every button has a border, since its own background is gone."""
    visit = open_page(forced_colors="active")
    styles = visit.page.locator("#draw, #examples button").evaluate_all(
        "buttons => buttons.map(button => getComputedStyle(button).border)"
    )
    assert len(styles) == 1 + len(page_text.DEMO_EXAMPLES)
    assert all(style.startswith("1px solid") for style in styles)


def test_download_keeps_the_metadata(open_page: Callable[..., Visit], tmp_path: Path) -> None:
    """The downloaded file is the PNG as the server made it, named after its prompt and seed."""
    visit = open_page()
    visit.ask("a castle")
    expect(visit.page.locator("#result img")).to_be_visible()
    with visit.page.expect_download() as download:
        visit.page.locator("#result").get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "a-castle-42.png"
    download.value.save_as(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == picture(visit.service.started[-1].request, 42).encoded
    with Image.open(tmp_path / "picture.png") as image:
        assert image.info["parameters"].startswith("a castle")


def test_an_emerging_picture_hides_the_buttons_of_the_last_one(open_page: Callable[..., Visit]) -> None:
    """While a new picture emerges, nobody downloads the last one by mistake; afterwards Download gives the new one."""
    visit = open_page()
    visit.ask("a castle")
    download = visit.page.locator("#result [aria-label=Download]")
    expect(download).to_be_visible()
    visit.service.hold("drawing")
    visit.ask("an owl")
    expect(visit.page.locator("#preview img")).to_be_visible()
    expect(download).to_be_hidden()
    visit.service.let("drawing")
    expect(visit.page.locator("#result img")).to_have_attribute("alt", "an owl")
    with visit.page.expect_download() as file:
        download.click()
    assert file.value.suggested_filename == "an-owl-42.png"


@pytest.mark.parametrize("width", [PHONE["width"], 1280])
def test_a_touched_picture_fills_the_screen(open_page: Callable[..., Visit], width: int) -> None:
    """A touch shows the picture, and a new one as it emerges, on the whole screen; a touch or Escape ends that."""
    visit = open_page(viewport={"width": width, "height": 844})
    whole = {"x": 0, "y": 0, "width": width, "height": 844}
    result, picture_shown = visit.page.locator("#result"), visit.page.locator("#result img")
    visit.ask("a castle")
    picture_shown.click()
    expect(result).to_have_class(re.compile("fullscreen"))
    wait_until("the picture to fill the screen", lambda: result.bounding_box() == whole)
    picture_shown.click()
    expect(result).not_to_have_class(re.compile("fullscreen"))

    visit.service.hold("drawing")
    visit.ask("an owl")
    expect(visit.page.locator("#preview img")).to_be_visible()
    picture_shown.click()
    wait_until("the preview to fill the screen", lambda: visit.page.locator("#preview").bounding_box() == whole)
    visit.service.let("drawing")
    expect(picture_shown).to_have_attribute("alt", "an owl")
    visit.page.keyboard.press("Escape")
    expect(result).not_to_have_class(re.compile("fullscreen"))
    assert (result.bounding_box() or whole)["width"] < width


def test_nothing_is_fetched_from_elsewhere(open_page: Callable[..., Visit]) -> None:
    """Fonts, scripts and styles come from the page's own server, and a drawing leaves no error in the console."""
    visit = open_page()
    hosts, errors, url = set(), [], visit.page.url
    visit.page.goto("about:blank")  # what is cut short there is no error of the page's
    visit.page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc or "data"))
    visit.page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    visit.page.goto(url)
    wait_until_ready(visit.page)
    visit.ask("a castle")
    visit.says(re.compile("Done"))
    assert hosts <= {urlsplit(url).netloc, "data"}
    assert errors == []


def test_keyboard_and_screen_reader(open_page: Callable[..., Visit]) -> None:
    """The page names its language, the sentence is a polite live region that stays, and Tab goes from the prompt to
    Draw, past the styles and shapes that lie between them.
    """
    visit = open_page()
    assert visit.page.get_attribute("html", "lang") == "en"
    live = visit.page.locator("#status [role=status][aria-live=polite]")
    live.evaluate("element => window.live = element")
    visit.page.focus("#prompt textarea")
    visit.page.keyboard.type("a castle")
    passed = []
    for _ in range(12):
        visit.page.keyboard.press("Tab")
        passed.append(visit.page.evaluate("document.activeElement.closest('#styles, #size, #draw')?.id"))
        if passed[-1] == "draw":
            break
    assert [*dict.fromkeys(passed)] == ["styles", "size", "draw"]
    visit.page.keyboard.press("Enter")
    visit.says(re.compile("Done"))
    assert live.evaluate("element => window.live === element")


def test_the_keyboard_keeps_its_place(open_page: Callable[..., Visit]) -> None:
    """After Draw or Cancel by keyboard, the focus is on Draw again when the drawing is over; a visitor who went
    elsewhere meanwhile stays there.
    """
    visit = open_page()
    draw, cancel = visit.page.locator("#draw"), visit.page.locator("#cancel")
    visit.page.fill("#prompt textarea", "a castle")
    visit.service.hold("drawing")
    draw.press("Enter")
    visit.says("Drawing: step 8 of 20")
    visit.service.let("drawing")
    visit.says(re.compile("Done"))
    expect(draw).to_be_focused()

    visit.service.hold("drawing")
    draw.press("Enter")
    visit.says("Drawing: step 8 of 20")
    expect(cancel).to_be_visible()  # else Tab would pass it
    for _ in range(2):  # past the number of pictures
        visit.page.keyboard.press("Tab")
    expect(cancel).to_be_focused()
    visit.page.keyboard.press("Enter")
    visit.says("Cancelled. Nothing was drawn.")
    expect(draw).to_be_focused()

    draw.press("Enter")
    visit.says("Drawing: step 8 of 20")
    visit.page.focus("#prompt textarea")
    visit.service.let("drawing")
    visit.says(re.compile("Done"))
    expect(draw).to_be_enabled()
    expect(visit.page.locator("#prompt textarea")).to_be_focused()


def test_a_choice_is_one_stop(open_page: Callable[..., Visit]) -> None:
    """Tab stops once at the shapes and once at the numbers of pictures, at the chosen one; arrows choose another, and
    go round.
    """
    visit = open_page()
    page = visit.page

    def place() -> str:
        return str(page.evaluate("document.activeElement.closest('#prompt, #styles, #size, #draw, #count')?.id"))

    page.focus("#draw")
    page.keyboard.press("Shift+Tab")
    assert place() == "size"
    page.keyboard.press("Shift+Tab")
    assert place() == "styles"
    page.focus("#draw")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#count label.selected")).to_have_text("×2")  # noqa: RUF001
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#count label.selected")).to_have_text("×4")  # noqa: RUF001
    expect(page.locator("#count input").nth(3)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    assert place() == "draw"
    page.keyboard.press("Tab")
    expect(page.locator("#count input").nth(3)).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page: Callable[..., Visit], scheme: str) -> None:
    """Text stands out from what is behind it by at least 4.5 to 1, in light and dark mode."""
    visit = open_page(color_scheme=scheme)
    visit.page.get_by_role("button", name="More").click()
    expect(
        visit.page.locator("#more [data-testid=accordion-content]").first
    ).to_be_visible()  # its texts are looked at, too
    low = visit.page.evaluate((REPOSITORY / "tests" / "support" / "contrast.js").read_text(encoding="utf-8"))
    assert low == []


def test_the_demo_says_what_it_is(open_page: Callable[..., Visit]) -> None:
    """The notice names the tiny model, and tells the owner what it takes to connect a GPU."""
    visit = open_page()
    expect(visit.page.get_by_text("a tiny model draws little pictures")).to_be_visible()
    visit.page.locator("#about summary").first.click()
    visit.page.get_by_text("For the owner of this page: draw with a larger model", exact=True).click()
    expect(visit.page.get_by_text("ENDPOINT_SECRET")).to_be_visible()


def test_the_demo_says_when_it_knows_no_word(open_page: Callable[..., Visit]) -> None:
    """A prompt without a word that the demo model knows is drawn, and told to be a guess."""
    visit = open_page()
    visit.ask("zzyzx qwertz")
    visit.says(re.compile("Done .*knows none of these words"))
    visit.ask("a red apple")
    visit.says(re.compile(r"Done in [\d.]+ s, seed 42\s*$"))
