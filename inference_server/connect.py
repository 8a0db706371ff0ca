"""A worker: no port listens, it dials a Space and draws what comes over that line (`space_connection.py`)."""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any

from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect

from inference_server.healthcheck import note_trouble
from inference_server.line_trouble import why_late, why_no_line
from inference_server.line_watch import LineWatch
from inference_server.space import Space
from inference_server.space_connection import FINISH_S, SpaceConnection

log = logging.getLogger("inference_server.connect")

PING_S, PONG_S = 5.0, 10.0  # a dead line is found within the sum
SILENT_S = 5.0  # so long after the Space's last word its line is suspect; leases come every 2.5 s
_LOOK_S = 0.25
_DIAL_S, _TRY_EVERY_S = 12.0, 1.0  # TCP and TLS
_SETTLED_S = 5.0  # a line that held for so long is made again at once
_QUICK_S, _QUICKLY_FOR_S = 1.0, 150.0  # pause between two tries after that: visitors may wait for this worker
_MESSAGE_BYTES_MAX = 32 * 1024 * 1024


async def serve_space(
    space: Space,
    app: ASGIApp,
    health: Callable[[], dict[str, Any]],
    ending: asyncio.Event,
    on_line: Callable[[bool], None] = lambda _: None,
    keep: Callable[[float], None] = lambda keep_s: None,
) -> None:
    """Draws what the Space sends until `ending` is set; then what is being drawn has `FINISH_S` to be finished.

    `app` answers the requests; `health`: the healthcheck's object; `on_line` is told True when there is a line, False
    when it is no more; `keep`: how long a request goes on whose Space is gone. A line that breaks is made again for
    ever.
    """
    connected = asyncio.Event()
    instance = secrets.token_hex(16)
    serve = partial(SpaceConnection, name=space.name, instance=instance, app=app, health=health, keep=keep)
    serving = asyncio.create_task(_reconnect(space, serve, ending, connected, on_line))
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
    serve: Callable[[ClientConnection], SpaceConnection],
    ending: asyncio.Event,
    connected: asyncio.Event,  # while there is a line
    on_line: Callable[[bool], None],
) -> None:
    complaints = _Complaints(space)
    delays = _delays()
    dial = _Dial(space, complaints, _delays)
    while True:
        line = await dial.line
        begun = time.monotonic()
        complaints.connected(line)
        connected.set()
        on_line(True)
        connection = serve(line)
        serving = asyncio.create_task(connection.run(ending))
        try:
            watch = LineWatch(line.transport.get_extra_info("socket"))
            redial = partial(_Dial, space, complaints, _delays_after_a_line)
            newer = await _newer_line(serving, partial(_is_suspect, connection, watch), redial)
            if newer is not None:
                line.transport.abort()  # no farewell: nobody would hear it
            await serving
        finally:
            serving.cancel()
            await dial.close()
        connected.clear()
        on_line(False)
        if ending.is_set():
            if newer is not None:
                await newer.close()
            return
        log.warning("the line to %s broke (%s); connecting again", space.url, _closed_because(line))
        if newer is None:
            settled = time.monotonic() - begun > _SETTLED_S
            if settled:
                delays = _delays()
            await asyncio.sleep(next(delays))
            newer = _Dial(space, complaints, _delays_after_a_line if settled else _delays)
        dial = newer


async def _newer_line(
    serving: asyncio.Task[None], is_suspect: Callable[[], bool], redial: "Callable[[], _Dial]"
) -> "_Dial | None":
    """Waits until the line has ended or a newer one is there, which is tried for while this one is suspect.

    Such a line may be dead without either end knowing, after a change of the uplink's address for instance, or only
    slow: then it goes on, and the try is given up. None: it has ended, and no try is under way.
    """
    dial: _Dial | None = None
    try:
        while not serving.done():
            await asyncio.wait(
                {serving, *([dial.line] if dial else [])}, timeout=_LOOK_S, return_when="FIRST_COMPLETED"
            )
            if dial is not None and (dial.line.done() or serving.done()):
                kept, dial = dial, None
                return kept
            if not is_suspect():
                if dial is not None:
                    await dial.close()
                dial = None
            elif dial is None:
                dial = redial()
        return None
    finally:
        if dial is not None:
            await dial.close()


def _is_suspect(connection: SpaceConnection, watch: LineWatch) -> bool:
    return connection.silent_s > SILENT_S or watch.is_suspect()


class _Dial:
    """Tries for a line until there is one, as websockets' own reconnection does; `line` is the task of that."""

    def __init__(self, space: Space, complaints: "_Complaints", delays: Callable[[], Generator[float]]) -> None:
        self._lines: AsyncIterator[ClientConnection] = aiter(
            _Connect(
                space.address,
                additional_headers=space.headers,
                compression=None,  # pictures are compressed already
                open_timeout=20,
                ping_interval=PING_S,
                ping_timeout=PONG_S,
                close_timeout=5,
                max_size=_MESSAGE_BYTES_MAX,
                reconnect_delays=delays,
                process_exception=complaints.note,
                logger=_quiet(),
            )
        )
        self.line = asyncio.create_task(self._first())

    async def _first(self) -> ClientConnection:
        return await anext(self._lines)

    async def close(self) -> None:
        """Gives the try up, or closes the line."""
        self.line.cancel()
        await asyncio.gather(self.line, return_exceptions=True)
        await self._lines.aclose()  # type: ignore[attr-defined]  # it is a generator


class _Connect(connect):
    """Follows no redirect: it would take the key elsewhere, and every later try would go there too. Nor does it
    leave it to TCP to try again, which doubles its pauses: while the uplink is down, tries begin side by side, a second
    apart, and the first that comes through is it.
    """

    async def open_tcp_connection(self) -> ClientConnection:
        tries: set[asyncio.Task[ClientConnection]] = set()
        try:
            async with asyncio.timeout(_DIAL_S):
                while True:
                    tries.add(asyncio.create_task(super().open_tcp_connection()))
                    done, _ = await asyncio.wait(tries, timeout=_TRY_EVERY_S, return_when="FIRST_COMPLETED")
                    if done:
                        connected = done.pop()
                        tries.discard(connected)
                        return connected.result()
        finally:
            for one in tries:
                one.cancel()
            for late in await asyncio.gather(*tries, return_exceptions=True):
                if isinstance(late, ClientConnection):
                    late.transport.abort()

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _delays(quickly_until_s: float = 0.0) -> Generator[float]:
    """Between two tries, s: at most half a second at first, then growing; no two workers of one Space are alike.

    At most `_QUICK_S` as long as the monotonic clock is before `quickly_until_s`.
    """
    delay = 0.5
    yield delay * random.uniform(0.1, 1.0)  # noqa: S311
    while True:
        delay = min(delay * 1.6, _QUICK_S if time.monotonic() < quickly_until_s else 10.0)
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311


def _delays_after_a_line() -> Generator[float]:
    return _delays(quickly_until_s=time.monotonic() + _QUICKLY_FOR_S)


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

    def connected(self, line: ClientConnection) -> None:
        self._said = ""
        note_trouble("")
        if late := why_late(line.response.headers if line.response else {}, time.time()):
            log.warning("%s", late)
        log.info("connected to %s as %r", self._space.url, self._space.name)

    def note(self, exc: Exception) -> None:
        """Every failure passes some day: a Space is restarted, a key corrected."""
        said = why_no_line(exc, self._space)
        if said != self._said:
            log.warning("cannot connect to %s: %s", self._space.url, said)
            self._said = said
            note_trouble(said)
