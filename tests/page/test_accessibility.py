"""What axe-core finds on the page in a real Chromium: nothing in any state, light, dark or in forced colours."""

import importlib.resources
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from drawing.models import Limits
from errors import EndpointUnreachableError
from tests.support.visits import PHONE, Visit

pytestmark = [pytest.mark.slow]

# The structure is the same in every colour: there the contrast alone is looked at again.
_LOOKS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("light", {"color_scheme": "light", "forced_colors": "none"}, {}),
    ("dark", {"color_scheme": "dark", "forced_colors": "none"}, {"runOnly": ["color-contrast"]}),
    ("forced colours", {"color_scheme": "light", "forced_colors": "active"}, {"runOnly": ["color-contrast"]}),
)
_RUN = """async ([isDark, options]) => {
    document.body.classList.toggle("dark", isDark);
    await Promise.all(document.getAnimations().filter(({ playState, effect }) =>
        playState === "running" && effect.getTiming().iterations !== Infinity).map(({ finished }) => finished));
    const { violations } = await axe.run(document, { ...options, resultTypes: ["violations"] });
    return violations.map(({ id, nodes }) => [id, nodes.map(({ html, any }) => [html, any[0]?.message])]);
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    if importlib.util.find_spec("axe_playwright_python") is None:
        pytest.fail("axe-playwright-python is not installed: `make test` installs it")
    return Path(str(importlib.resources.files("axe_playwright_python") / "axe.min.js")).read_text(encoding="utf-8")


def _found(page: Page, state: str) -> list[str]:
    """What axe-core finds in this state of the page."""
    found = []
    for look, media, options in _LOOKS:
        page.emulate_media(**media)
        for rule, nodes in page.evaluate(_RUN, [look == "dark", options]):
            found += [f"{state}, {look}: {rule}: {json.dumps(node)[:300]}" for node in nodes]
    page.emulate_media(color_scheme="light", forced_colors="none")
    page.evaluate("document.body.classList.remove('dark')")
    return found


def test_axe_core_finds_nothing(open_page: Callable[..., Visit], axe: str) -> None:
    """In each state of the page axe-core reports no violation of any level."""
    visit = open_page(viewport=PHONE)
    page, service = visit.page, visit.service
    page.evaluate(axe)
    found = _found(page, "cold")

    for gate in ("waking", "queued", "drawing"):
        service.hold(gate)
    visit.ask("a castle")
    visit.says(re.compile("Waking"))
    found += _found(page, "waiting")
    service.let("waking")
    service.let("queued")
    visit.says("Drawing: step 8 of 20")
    found += _found(page, "drawing")
    service.let("drawing")
    expect(page.locator("#strip li")).to_have_count(1)
    found += _found(page, "done, with the strip")

    page.click("#more > button")
    expect(page.locator("#negative-prompt")).to_be_visible()
    found += _found(page, "More open")
    service.limits, service.model = Limits(features=("text2image", "img2img", "inpaint")), "tiny"
    visit.ask("a boat")  # after each drawing the page asks what the model takes
    page.click("#start > button")
    expect(page.locator("#mask-image")).to_be_visible()
    found += _found(page, "a picture to start from")
    service.limits, service.model = Limits(), None
    page.click("#more > button")
    for summary in page.locator(":is(#small-print, #caption) summary").all():
        summary.click()
    found += _found(page, "About, chain and receipt open")
    page.locator("#result .image-container > button").click()
    expect(page.locator("#result.fullscreen")).to_be_visible()
    found += _found(page, "large view")
    page.keyboard.press("Escape")

    service.fail_with = EndpointUnreachableError(
        "Tunnel", how="refused", tried="reach port 8080", came_back="refused", next_step="Is the box on?"
    )
    visit.ask("an owl")
    visit.says(re.compile("cannot be reached"))
    page.get_by_text("Details for the maintainer").click()
    found += _found(page, "error")
    page.context.set_offline(True)
    expect(page.get_by_text("This page is offline just now.")).to_be_visible()
    found += _found(page, "offline")
    assert not found, "\n".join(sorted(set(found)))
