"""The page in a real Chromium, in front of a stand-in service that a module's tests share."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the browser's tests are slow, and the quick ones need not load what those need
    from playwright.sync_api import Browser, BrowserContext

    from tests.support.page_service import StandInService
    from tests.support.visits import Visit


@pytest.fixture(scope="module")
def _served() -> Iterator["tuple[StandInService, str]"]:
    from tests.support.page_service import StandInService, serve

    service = StandInService(tunnel=False)
    page, url = serve(service)
    yield service, url
    page.close(verbose=False)


@pytest.fixture
def open_page(browser: "Browser", _served: "tuple[StandInService, str]") -> Iterator["Callable[..., Visit]"]:
    """Opens the page, in a browser profile of its own unless one is given; all gates are open again afterwards.

    `address`: what follows the page's own address; `script`: what runs before the page's scripts.
    """
    from tests.support.visits import PHONE, Visit, wait_until_ready

    service, url = _served
    contexts: list[BrowserContext] = []

    def visit(
        context: "BrowserContext | None" = None, *, address: str = "", script: str = "", **options: object
    ) -> "Visit":
        if context is None:
            context = browser.new_context(**{"viewport": PHONE, **options})  # type: ignore[arg-type]
            contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        page.goto(url + address)
        wait_until_ready(page)
        return Visit(page, service)

    yield visit
    service.fail_with = service.refuse_with = service.words_read = None
    for gate in ("waking", "queued", "drawing", "done"):
        service.let(gate)
    for context in contexts:
        context.close()
