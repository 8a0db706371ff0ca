"""Dials a Space until there is a line: several tries side by side while the uplink is down, TLS taken up again.

A line takes two and a half round trips until the Space knows who is there: TCP, TLS 1.3, and half a one for the request
that opens the WebSocket, which brings the worker's hello along.
"""

import asyncio
import json
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from inference_server.healthcheck import note_trouble
from inference_server.line_trouble import why_late, why_no_line
from inference_server.space import Space
from inference_server.space_connection import HELLO_HEADER

log = logging.getLogger("inference_server.connect")

PING_S, PONG_S = 5.0, 10.0  # a dead line is found within the sum
_TRY_S, _TRY_EVERY_S = 12.0, 0.7  # TCP and TLS
_UPGRADE_S = 10.0  # from the request that opens the WebSocket to its answer
_SOON_S = 0.1  # before the first try after a line that held
_QUICK_S, _QUICKLY_FOR_S = 1.0, 150.0  # pause between two tries after that: visitors may wait for this worker
_MESSAGE_BYTES_MAX = 32 * 1024 * 1024

Delays = Callable[[], Generator[float]]


class Dialling:
    """What every try for a line to one Space has in common. `hello`: see `space_connection.hello_of`."""

    def __init__(self, space: Space, hello: dict[str, Any]) -> None:
        self.space = space
        self._complaints = _Complaints(space)
        self._tls = _ResumingContext() if space.address.startswith("wss:") else None
        self._options: dict[str, Any] = {
            "uri": space.address,
            "additional_headers": {**space.headers, HELLO_HEADER: json.dumps(hello)},
            "compression": None,  # pictures are compressed already
            "open_timeout": None,  # each step has its own
            "create_connection": _Connection,
            "ping_interval": PING_S,
            "ping_timeout": PONG_S,
            "close_timeout": 5,
            "max_size": _MESSAGE_BYTES_MAX,
            "process_exception": self._complaints.note,
            "logger": _quiet(),
            **({"ssl": self._tls} if self._tls else {}),
        }

    def begin(self, delays: Delays) -> "Dial":
        """Tries until there is a line, with these pauses."""
        return Dial(_Connect(**self._options, reconnect_delays=delays))

    def connected(self, line: ClientConnection) -> None:
        """There is one: the next TLS handshake goes on from its own."""
        self._complaints.connected(line)
        tls = line.transport.get_extra_info("ssl_object")
        if self._tls is not None and isinstance(tls, ssl.SSLObject) and tls.session is not None:
            self._tls.session = tls.session


class Dial:
    """Tries for a line until there is one, as websockets' own reconnection does; `line` is the task of that."""

    def __init__(self, connecting: "_Connect") -> None:
        self._connecting = connecting
        self._lines: AsyncIterator[ClientConnection] = aiter(connecting)
        self.line = asyncio.create_task(self._first())

    @property
    def is_told(self) -> bool:
        """Whether the Space may have heard of this line already, and left an older one for it."""
        return self._connecting.is_told

    async def _first(self) -> ClientConnection:
        return await anext(self._lines)

    async def close(self) -> None:
        """Gives the try up, or closes the line."""
        self.line.cancel()
        await asyncio.gather(self.line, return_exceptions=True)
        await self._lines.aclose()  # type: ignore[attr-defined]  # it is a generator


class _Connection(ClientConnection):
    async def handshake(self, *arguments: Any, **named: Any) -> None:
        async with asyncio.timeout(_UPGRADE_S):
            await super().handshake(*arguments, **named)


class _Connect(connect):
    """Follows no redirect: it would take the key elsewhere, and every later try would go there too. Nor does it
    leave it to TCP to try again, which doubles its pauses: while the uplink is down, tries begin side by side, and the
    first that comes through is it.
    """

    is_told = False

    async def open_tcp_connection(self) -> ClientConnection:
        """Raises: what the first try raises that fails by itself, refused for instance; no answer is none of these."""
        self.is_told = False
        tries: set[asyncio.Task[ClientConnection]] = set()
        try:
            while True:
                tries.add(asyncio.create_task(self._try()))
                done, tries = await asyncio.wait(tries, timeout=_TRY_EVERY_S, return_when="FIRST_COMPLETED")
                for one in done:
                    if isinstance(silence := one.exception(), TimeoutError):
                        self.process_exception(silence)
                if answered := [one for one in done if not isinstance(one.exception(), TimeoutError)]:
                    answered.sort(key=lambda one: one.exception() is not None)
                    tries.update(answered[1:])
                    line = answered[0].result()
                    self.is_told = True  # its hello goes out with the next step
                    return line
        finally:
            for one in tries:
                one.cancel()
            for late in await asyncio.gather(*tries, return_exceptions=True):
                if isinstance(late, ClientConnection):
                    late.transport.abort()

    async def _try(self) -> ClientConnection:
        async with asyncio.timeout(_TRY_S):
            return await super().open_tcp_connection()

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _ResumingContext(ssl.SSLContext):
    """Trusts the system's authorities, and takes up the newest session: its handshake sends no certificates, and on a
    line that loses packets each one less is a gain.
    """

    session: ssl.SSLSession | None = None

    def __new__(cls) -> "_ResumingContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self) -> None:
        self.load_default_certs()

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)


def delays(quickly_until_s: float = 0.0) -> Generator[float]:
    """Between two tries, s: at most half a second at first, then growing; no two workers of one Space are alike.

    At most `_QUICK_S` as long as the monotonic clock is before `quickly_until_s`.
    """
    delay = 0.5
    yield delay * random.uniform(0.1, 1.0)  # noqa: S311
    while True:
        delay = min(delay * 1.6, _QUICK_S if time.monotonic() < quickly_until_s else 10.0)
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311


def delays_after_a_line() -> Generator[float]:
    """After a line that held: visitors may wait for this worker."""
    yield random.uniform(0.0, _SOON_S)  # noqa: S311
    yield from delays(quickly_until_s=time.monotonic() + _QUICKLY_FOR_S)


def _quiet() -> logging.Logger:
    """websockets' own log tells each try with a traceback; what matters of it is said here."""
    quiet = logging.getLogger("inference_server.connect.websockets")
    quiet.setLevel(logging.CRITICAL)
    return quiet


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
