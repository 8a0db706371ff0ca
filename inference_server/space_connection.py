"""A worker's line to a Space while it holds: requests come in over a WebSocket, answers go back.

What is asked and answered is the same as over HTTP (`routes.py`), by the same code. On the line, texts are JSON objects
whose `type` says what they are, and binary frames are pieces of pictures.

From the Space:  hello {protocol, version}; request {id, method, path, body}; lease {beat, ids, keep_s}; hang_up {id}
From the worker: hello {protocol, version, name, instance}; beat {beat, health}; accepted {id};
                 head {id, status, retry_after}; line {id, line, pictures}; end {id, broken}; leaving {}
Binary, from the worker: the request's id and the picture's number (4 bytes each, big endian), then bytes of its file.

A request is an offer until its first lease: a Space that gave it to somebody else meanwhile grants none. A lease ends
`LEASE_S` after the newest beat that the Space had seen when it granted it, so that neither delays nor clocks matter.
A line whose `arriving` is true has a small finished picture as its preview: the whole one takes a while.
`keep_s`: how long a request goes on for a Space that has lost this worker and may ask for it again; where its lease
ends on a line that seems to hold, the lease is a part of that time. `instance` tells this process from every other one:
a Space that gets a second line from it ends the first, which must be dead.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from inference_server.line_answer import LineAnswer
from inference_server.line_watch import unsent_bytes

log = logging.getLogger("inference_server.connect")

PROTOCOL = 1
VERSION = (Path(__file__).parent / "VERSION").read_text().strip()
BEAT_S = 2.5
LEASE_S = 10.0
FINISH_S = 30.0  # for what is being drawn when this process is told to end
_SEND_BUFFER_BYTES = 64 * 1024
_TCP_RTO_MAX_MS = 44  # Linux 6.15 and newer, see linux/tcp.h
_RTO_MAX_MS = 1500  # after an outage what was lost is sent again within this time, not within two minutes
_SENSELESS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_ALLOWED = {"GET": "/healthcheck", "POST": "/", "DELETE": "/requests/"}


@dataclass
class _Request:
    """A request of the Space's. `until`: the end of its lease on the monotonic clock, None before its first one."""

    id: int
    method: str
    path: str
    body: bytes
    leased: asyncio.Event = field(default_factory=asyncio.Event)
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)
    until: float | None = None


class SpaceConnection:
    """One WebSocket to the Space, for as long as it holds."""

    def __init__(
        self,
        line: ClientConnection,
        name: str,
        instance: str,
        app: ASGIApp,
        health: Callable[[], dict[str, Any]],
        keep: Callable[[float], None] = lambda keep_s: None,
    ) -> None:
        """`instance`: of this process; `keep`: is told how long a request goes on whose Space is gone."""
        self._line, self._app, self._health, self._keep = line, app, health, keep
        self._name, self._instance = name, instance
        self._keep_s = 0.0  # as the Space told it last
        self._connection: socket.socket | None = line.transport.get_extra_info("socket")
        self._heard_s = time.monotonic()
        self._requests: dict[int, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beats: dict[int, float] = {}  # number -> when it was sent, monotonic

    @property
    def silent_s(self) -> float:
        """Seconds since the Space was last heard. A lease comes every 2.5 s, or a beat's worth later on a slow line."""
        return time.monotonic() - self._heard_s

    async def run(self, ending: asyncio.Event) -> None:
        """Returns when the line is broken, or when `ending` was set and what was being drawn is done."""
        _prepare(self._connection)
        beating = asyncio.create_task(self._beat())
        leaving = asyncio.create_task(self._leave(ending))
        try:
            await self._send(type="hello", protocol=PROTOCOL, version=VERSION, name=self._name, instance=self._instance)
            async for message in self._line:
                self._heard_s = time.monotonic()
                if isinstance(message, str):
                    self._on_message(json.loads(message))
        except ConnectionClosed:
            pass
        except _SENSELESS as error:
            log.warning("the Space sent what this worker does not understand (%s)", type(error).__name__)
            await self._line.close(reason="this worker does not understand that")
        finally:
            for request in self._requests.values():
                request.hang_up.set()  # the answer is kept for a Space that comes back for it
            for task in (beating, leaving):
                task.cancel()

    def _on_message(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "request":
                request = _Request(message["id"], message["method"], message["path"], message["body"].encode())
                self._requests[request.id] = request
                task = asyncio.create_task(self._serve(request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "lease":
                self._on_lease(message["beat"], message["ids"])
                if (keep_s := message.get("keep_s")) is not None:
                    self._keep_s = float(keep_s)
                    self._keep(self._keep_s)
            case "hang_up":
                if request_ := self._requests.get(message["id"]):
                    request_.hang_up.set()
            case "hello" if message.get("protocol") != PROTOCOL:
                log.error(
                    "the Space speaks version %s of the workers' protocol and this worker version %d: update the %s",
                    *(message.get("protocol"), PROTOCOL),
                    "worker (docker build, docker run)"
                    if message.get("protocol", 0) > PROTOCOL
                    else "Space (python manage.py deploy)",
                )

    def _on_lease(self, beat: int, ids: list[int]) -> None:
        sent = self._beats.get(beat)
        if sent is None:
            return
        self._beats = {number: at for number, at in self._beats.items() if number >= beat}
        for request_id in ids:
            if request := self._requests.get(request_id):
                request.until = sent + LEASE_S
                request.leased.set()

    async def _beat(self) -> None:
        """Tells how this worker is, and looks after the leases."""
        number, looked = 0, time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._beats[number] = time.monotonic()
                await self._send(type="beat", beat=number, health=self._health())
                number += 1
                await asyncio.sleep(BEAT_S)
                now = time.monotonic()
                late = now - looked > 2 * BEAT_S  # this process itself was suspended: nobody else is to blame
                for request in self._requests.values():
                    if request.until is None or request.hang_up.is_set():
                        continue
                    if late:
                        request.until = max(request.until, now + LEASE_S)
                    elif now > request.until:
                        log.warning("request %d: the Space asks for it no longer", request.id)
                        # The Space may have lost this worker at the lease's beginning, and counts from there.
                        self._keep(max(0.0, self._keep_s - LEASE_S))
                        request.hang_up.set()
                looked = now

    async def _leave(self, ending: asyncio.Event) -> None:
        await ending.wait()
        with contextlib.suppress(ConnectionClosed):
            await self._send(type="leaving")
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=FINISH_S)
            await self._line.close(reason="this worker ends")

    async def _serve(self, request: _Request) -> None:
        """Answers one request. Nothing of it is begun before the Space has confirmed that it is still wanted."""
        try:
            await self._send(type="accepted", id=request.id)
            async with asyncio.timeout(LEASE_S):
                await request.leased.wait()
            await self._call(request)
            await self._send(type="end", id=request.id)
        except (TimeoutError, ConnectionClosed):
            pass
        except Exception:
            log.exception("request %d could not be answered", request.id)
            with contextlib.suppress(ConnectionClosed):
                await self._send(type="end", id=request.id, broken="the worker met a fault of its own, see its log")
        finally:
            self._requests.pop(request.id, None)

    async def _call(self, request: _Request) -> None:
        """The application's answer, line by line."""
        answer = LineAnswer(self._line, request.id)
        if not _is_allowed(request.method, request.path):
            await answer.send_head(404, None)
            return
        body: bytes | None = request.body
        rest = b""

        async def receive() -> Message:
            nonlocal body
            if body is not None:
                given, body = body, None
                return {"type": "http.request", "body": given, "more_body": False}
            await request.hang_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            with _hung_up(request):
                await tell(message)

        async def tell(message: Message) -> None:
            nonlocal rest
            if message["type"] == "http.response.start":
                retry_after = dict(message["headers"]).get(b"retry-after", b"").decode() or None
                await answer.send_head(message["status"], retry_after)
                return
            *lines, rest = (rest + message.get("body", b"")).split(b"\n")
            if not message.get("more_body"):
                lines, rest = [*lines, rest], b""
            for line in lines:
                if line.strip():
                    await answer.send_line(line)

        await self._app(_scope(request), receive, send)

    async def _send(self, **message: Any) -> None:
        await self._line.send(json.dumps(message))


def _prepare(connection: socket.socket | None) -> None:
    """What an outage swallowed is soon sent again; where the kernel tells not how much it holds, it holds little."""
    if connection is None:
        return
    with contextlib.suppress(OSError):  # a line that is no more already, or an older kernel
        if unsent_bytes(connection) is None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MAX_MS)


@contextlib.contextmanager
def _hung_up(request: _Request) -> Iterator[None]:
    """A line that breaks while something is sent: as over HTTP, the application learns of it by its next `receive`."""
    try:
        yield
    except ConnectionClosed:
        request.hang_up.set()


def _is_allowed(method: str, path: str) -> bool:
    allowed = _ALLOWED.get(method)
    return allowed is not None and (path == allowed or (method == "DELETE" and path.startswith(allowed)))


def _scope(request: _Request) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(request.body)).encode()),
        ],
        "client": None,
        "server": None,
        "state": {},
    }
