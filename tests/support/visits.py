"""Visitors in tests: the page in a browser, ready to be used, and what somebody does there."""

import re
from dataclasses import dataclass

from playwright.sync_api import Page, expect

from tests.support.page_service import StandInService

PHONE = {"width": 390, "height": 844}
TOUCH: dict[str, object] = {"has_touch": True, "is_mobile": True}


@dataclass(frozen=True)
class Visit:
    """A visitor's page, and the stand-in behind it."""

    page: Page
    service: StandInService

    def ask(self, prompt: str) -> None:
        """Types the prompt and presses Enter."""
        self.page.fill("#prompt textarea", prompt)
        self.page.press("#prompt textarea", "Enter")

    def says(self, sentence: str | re.Pattern[str]) -> None:
        """The living sentence becomes this."""
        expect(self.page.locator("#status")).to_have_text(sentence)


def wait_until_ready(page: Page) -> None:
    """Returns when all of an opened page is there and works: before that, a key or a click may go nowhere."""
    # Gradio shows each kind of component as soon as it has its code, and when all are there it asks for the page's
    # first news, which close "More". Draw is not enabled where a drawing is found.
    expect(page.locator("#more:not(.starting)")).to_be_attached()  # what is not there yet would be hidden, too
    expect(page.locator("#more [data-testid=accordion-content]").first).to_be_hidden()
    expect(page.locator("#draw")).to_be_visible()
