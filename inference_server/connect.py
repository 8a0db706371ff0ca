"""A worker: no port listens, it dials a Space and draws what comes over that line (`space_connection.py`)."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Generator
from typing import Any

from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from inference_server.space import Space
from inference_server.space_connection import FINISH_S, SpaceConnection

log = logging.getLogger("inference_server.connect")

PING_S, PONG_S = 5.0, 10.0  # a dead line is found within the sum
_SETTLED_S = 5.0  # a line that held for so long is made again at once
_MESSAGE_BYTES_MAX = 32 * 1024 * 1024


async def serve_space(
    space: Space,
    app: ASGIApp,
    health: Callable[[], dict[str, Any]],
    ending: asyncio.Event,
    on_line: Callable[[bool], None] = lambda _: None,
) -> None:
    """Draws what the Space sends until `ending` is set; then what is being drawn has `FINISH_S` to be finished.

    `app` answers the requests; `health`: the healthcheck's object; `on_line` is told True when there is a line, False
    when it is no more. A line that breaks is made again for ever.
    """
    connected = asyncio.Event()
    serving = asyncio.create_task(_reconnect(space, app, health, ending, connected, on_line))
    stopping = asyncio.create_task(ending.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if connected.is_set():
        await asyncio.wait({serving}, timeout=FINISH_S + 5)
    for task in (serving, stopping):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _reconnect(
    space: Space,
    app: ASGIApp,
    health: Callable[[], dict[str, Any]],
    ending: asyncio.Event,
    connected: asyncio.Event,  # while there is a line
    on_line: Callable[[bool], None],
) -> None:
    complaints = _Complaints(space)
    delays = _delays()
    connecting = _Connect(
        space.address,
        additional_headers=space.headers,
        compression=None,  # pictures are compressed already
        open_timeout=20,
        ping_interval=PING_S,
        ping_timeout=PONG_S,
        close_timeout=5,
        max_size=_MESSAGE_BYTES_MAX,
        reconnect_delays=_delays,
        process_exception=complaints.note,
        logger=_quiet(),
    )
    async for line in connecting:
        begun = time.monotonic()
        complaints.connected()
        connected.set()
        on_line(True)
        await SpaceConnection(line, space.name, app, health).run(ending)
        connected.clear()
        on_line(False)
        if ending.is_set():
            return
        log.warning("the line to %s broke (%s); connecting again", space.url, _closed_because(line))
        if time.monotonic() - begun > _SETTLED_S:
            delays = _delays()
        await asyncio.sleep(next(delays))


class _Connect(connect):
    """Follows no redirect: it would take the key elsewhere, and every later try would go there too."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _delays() -> Generator[float]:
    """Between two tries, s: half a second at first, at most ten; no two workers of a Space that restarts are alike."""
    delay = 0.5
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311
        delay = min(delay * 1.6, 10.0)


def _quiet() -> logging.Logger:
    """websockets' own log tells each try with a traceback; what matters of it is said here."""
    quiet = logging.getLogger("inference_server.connect.websockets")
    quiet.setLevel(logging.CRITICAL)
    return quiet


def _closed_because(line: ClientConnection) -> str:
    return line.close_reason or f"code {line.close_code}"


class _Complaints:
    """Why no line comes about, once for each reason and not at each try."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._said = ""

    def connected(self) -> None:
        self._said = ""
        log.info("connected to %s as %r", self._space.url, self._space.name)

    def note(self, exc: Exception) -> None:
        """Every failure passes some day: a Space is restarted, a key corrected."""
        said = self._words(exc)
        if said != self._said:
            log.warning("cannot connect to %s: %s", self._space.url, said)
            self._said = said

    def _words(self, exc: Exception) -> str:
        if not isinstance(exc, InvalidStatus):
            return (
                f"{type(exc).__name__}: {exc}. It is tried again; check that the Space runs and this machine's network"
            )
        status = exc.response.status_code
        advice = {
            401: "the Space is private: set HF_TOKEN to a token that may read it",
            403: "the key is wrong: `python manage.py worker-key` prints the one that belongs to the Space's secret. "
            "Or no worker may connect there: ENDPOINT_SECRET has to be set, and no other place that draws",
            404: "no worker may connect there: is it the right Space, with ENDPOINT_SECRET set, and not private "
            "(else HF_TOKEN is needed)?",
            426: "a proxy on the way lets no WebSocket through",
        }
        return f"it answered {status}; " + advice.get(status, "it starts or is paused; it is tried again")
