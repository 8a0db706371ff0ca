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
from page.redact import without_addresses
from text_to_image import TextToImage

PATH = "/chain"
_EXACT_S = 10.0
_WAYS = {
    "local": "all on one machine",
    "fair": "encrypted, to the owner's machine",
    "endpoint": "encrypted, to the owner's machine",
    "workers": "a line that the owner's machine opened itself",
}


@dataclass(frozen=True)
class Link:
    """One link: what it is, how it is, and whether that is well (a sleeping GPU is)."""

    name: str
    state: str
    well: bool = True


def links(status: BackendStatus) -> list[Link]:
    """The links from the visitor to the model."""
    way = _WAYS[status.kind] + (", by a machine in between" if status.tunnel and status.kind == "fair" else "")
    machines = [_box(box) for box in status.boxes] or [_machine(status)]
    found = [Link("This page", "here"), Link("The way to the machine that draws", way), *machines]
    if status.stand_in:
        found.append(Link("Meanwhile", "a small model sketches on this page's server"))
    if status.model and not (status.demo and not status.stand_in):
        found.append(Link("Model", status.model.rstrip("/").rpartition("/")[2]))
    return found


def _machine(status: BackendStatus) -> Link:
    name = "The machine that draws"
    if status.away:
        return Link(name, _lower(page_absence.sentence(status.absence or Absence())), well=False)
    if status.ready:
        return Link(name, "ready")
    wakes = status.wakes_in_s
    return Link(name, f"asleep; it wakes in {wakes[0]} to {wakes[1]} s" if wakes else "asleep; a drawing wakes it")


def _box(box: BoxStatus) -> Link:
    if box.trouble:
        return Link(f"The machine {box.name}", f"left out: {without_addresses(box.trouble)}", well=False)
    return Link(f"The machine {box.name}", "ready" if box.ready else "asleep; a drawing wakes it")


def _lower(sentence: str) -> str:
    return sentence.removeprefix("The machine that draws ").removeprefix("is ").rstrip(".")


class ChainNews:
    """Remembers since when each link is as it is, as far as this process has seen."""

    def __init__(self, service: TextToImage) -> None:
        self._service = service
        self._seen: dict[str, tuple[object, float, float]] = {}  # how it is; it became so between these two times
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()

    def look(self) -> list[tuple[Link, float, float]]:
        """Each link now, with the seconds since its last change: at least and at most, for one does not always look."""
        status, now = self._service.status(), time.monotonic()
        kind = (status.ready, status.away, status.absence and status.absence.reason)
        with self._lock:
            told = []
            for link in links(status):
                key: object = kind if link.name == "The machine that draws" else link.state
                seen = self._seen.get(link.name)
                if seen is None or seen[0] != key:
                    self._seen[link.name] = seen = (key, self._looked_at, now)
                told.append((link, now - seen[2], now - seen[1]))
            self._looked_at = now
        return told

    def html(self) -> str:
        """The links as a list."""
        rows = (
            f"<li{'' if link.well else ' class=trouble'}><b>{escape(link.name)}</b> {escape(link.state)}"
            f'<span class="since"> · {_since(*seconds)}</span></li>'
            for link, *seconds in self.look()
        )
        return f"<ul>{''.join(rows)}</ul>"

    def route(self) -> Route:
        """What an open list asks for, again and again, in place of itself."""

        def answer(request: Request) -> Response:
            return HTMLResponse(self.html(), headers={"Cache-Control": "no-store"})

        return Route(PATH, answer, methods=["GET"])


def _since(least_s: float, most_s: float) -> str:
    """`for 40 s`, `for 5 min`, `for 3 h`; `for up to 5 min` where nobody has looked just before the change."""
    most = _long(most_s)
    return f"for {most}" if most_s - least_s < _EXACT_S or most == _long(least_s) else f"for up to {most}"


def _long(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def chain_html(news: ChainNews) -> str:
    """The line that unfolds to the list."""
    return f"<details><summary>What draws, and how it is</summary><div>{news.html()}</div></details>"
