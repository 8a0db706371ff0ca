"""The links of the chain behind the page, each with its state and how long that has lasted. Nobody is woken for it."""

import threading
import time
from dataclasses import dataclass
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from drawing.status import BackendStatus, BoxStatus
from errors import Absence
from page import absence as page_absence
from page.language import ENGLISH, Words, words_of
from page.redact import without_addresses
from page.text import seconds_range
from text_to_image import TextToImage

PATH = "/chain"
_EXACT_S = 10.0


@dataclass(frozen=True)
class Link:
    """One link: what it is, how it is, and whether that is well (a sleeping GPU is)."""

    name: str
    state: str
    well: bool = True


def links(status: BackendStatus, words: Words = ENGLISH) -> list[Link]:
    """The links from the visitor to the model."""
    way = {"local": "local", "workers": "workers"}.get(status.kind, "encrypted")
    if status.tunnel and status.kind == "fair":
        way = "tunnel"
    found = [
        Link(words["chain_page"], words["chain_page_here"]),
        Link(words["chain_way"], words[f"chain_way_{way}"]),
        *([_box(box, words) for box in status.boxes] or [_machine(status, words)]),
    ]
    if status.stand_in:
        found.append(Link(words["chain_meanwhile"], words["chain_sketching"]))
    if status.model and not (status.demo and not status.stand_in):
        found.append(Link(words["chain_model"], status.model.rstrip("/").rpartition("/")[2]))
    return found


def _machine(status: BackendStatus, words: Words) -> Link:
    name = words["chain_machine"]
    if status.away:
        return Link(name, page_absence.state(status.absence or Absence(), words), well=False)
    if status.ready:
        return Link(name, words["chain_ready"])
    wakes = status.wakes_in_s
    asleep = words("chain_asleep_wakes", seconds=seconds_range(wakes, words)) if wakes else words["chain_asleep"]
    return Link(name, asleep)


def _box(box: BoxStatus, words: Words) -> Link:
    name = words("chain_box", name=box.name)
    if box.trouble:
        return Link(name, words("chain_left_out", why=without_addresses(box.trouble)), well=False)
    return Link(name, words["chain_ready" if box.ready else "chain_asleep"])


class ChainNews:
    """Remembers since when each link is as it is, as far as this process has seen."""

    def __init__(self, service: TextToImage) -> None:
        self._service = service
        self._seen: dict[str, tuple[object, float, float]] = {}  # how it is; it became so between these two times
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()

    def look(self, words: Words = ENGLISH) -> list[tuple[Link, float, float]]:
        """Each link now, with the seconds since its last change: at least and at most, for one does not always look."""
        status, now = self._service.status(), time.monotonic()
        kind = (status.ready, status.away, status.absence and status.absence.reason)
        with self._lock:
            told = []
            # What has changed is seen in one language, for all visitors.
            for link, seen_as in zip(links(status, words), links(status), strict=True):
                key: object = kind if seen_as.name == ENGLISH["chain_machine"] else seen_as.state
                seen = self._seen.get(seen_as.name)
                if seen is None or seen[0] != key:
                    self._seen[seen_as.name] = seen = (key, self._looked_at, now)
                told.append((link, now - seen[2], now - seen[1]))
            self._looked_at = now
        return told

    def html(self, words: Words = ENGLISH) -> str:
        """The links as a list."""
        rows = (
            f"<li{'' if link.well else ' class=trouble'}><b>{escape(link.name)}</b> {escape(link.state)}"
            f'<span class="since"> · {_since(least_s, most_s, words)}</span></li>'
            for link, least_s, most_s in self.look(words)
        )
        return f"<ul>{''.join(rows)}</ul>"

    def route(self) -> Route:
        """What an open list asks for, again and again, in place of itself."""

        def answer(request: Request) -> Response:
            return HTMLResponse(self.html(words_of(request)), headers={"Cache-Control": "no-store"})

        return Route(PATH, answer, methods=["GET"])


def _since(least_s: float, most_s: float, words: Words) -> str:
    """`for 40 s`, `for 5 min`, `for 3 h`; `for up to 5 min` where nobody has looked just before the change."""
    most = _long(most_s, words)
    is_known = most_s - least_s < _EXACT_S or most == _long(least_s, words)
    return words("chain_for" if is_known else "chain_for_up_to", time=most)


def _long(seconds: float, words: Words) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return words(f"short_{unit}", count=f"{seconds / size:.0f}")
    return words("short_s", count=f"{seconds:.0f}")


def chain_html(news: ChainNews, words: Words = ENGLISH) -> str:
    """The line that unfolds to the list."""
    return f"<details><summary>{words['chain']}</summary><div>{news.html(words)}</div></details>"
