"""A worker's line to a Space while it holds: requests come in over a WebSocket, answers go back.

What is asked and answered is the same as over HTTP (`routes.py`), by the same code. On the line, texts are JSON objects
whose `type` says what they are, and binary frames are pieces of pictures.

From the Space:  hello {protocol, version, acknowledges}; request {id, method, path, body}; lease {beat, ids, keep_s};
                 hang_up {id}; received {id, request_id}
From the worker: hello {protocol, version, name, instance}; beat {beat, health}; accepted {id};
                 head {id, status, retry_after}; line {id, line, pictures}; end {id, broken}; leaving {}
Binary, from the worker: the request's id and the picture's number (4 bytes each, big endian), then bytes of its file.

A request is an offer until its first lease: a Space that gave it to somebody else meanwhile grants none. A lease ends
`LEASE_S` after the newest beat that the Space had seen when it granted it, so that neither delays nor clocks matter.
A line whose `arriving` is true has a small finished picture as its preview: the whole one takes a while.
`keep_s`: how long a request goes on for a Space that has lost this worker and may ask for it again; where its lease
ends on a line that seems to hold, the lease is a part of that time. `instance` tells this process from every other one:
a Space that gets a second line from it ends the first, which must be dead. The worker's hello also stands in the
header `X-Worker-Hello` of the request that opens the line, so that a Space knows who is back a round trip earlier.
Where `acknowledges` is true, `received` says that the picture of the drawing `request_id` has come whole: until then it
is kept on this machine, over an end of this process too.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from inference_server.line_request import LineRequest, answer_request
from inference_server.line_watch import unsent_bytes

log = logging.getLogger("inference_server.connect")

PROTOCOL = 1
VERSION = (Path(__file__).parent / "VERSION").read_text().strip()
HELLO_HEADER = "X-Worker-Hello"
BEAT_S = 2.5
LEASE_S = 10.0
FINISH_S = 30.0  # for what is being drawn when this process is told to end
_SEND_BUFFER_BYTES = 64 * 1024
_TCP_RTO_MAX_MS = 44  # Linux 6.15 and newer, see linux/tcp.h
_RTO_MAX_MS = 1500  # after an outage what was lost is sent again within this time, not within two minutes
_SENSELESS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_ALLOWED = {"GET": "/healthcheck", "POST": "/", "DELETE": "/requests/"}


class SpaceConnection:
    """One WebSocket to the Space, for as long as it holds."""

    def __init__(
        self,
        line: ClientConnection,
        hello: dict[str, Any],
        app: ASGIApp,
        health: Callable[[], dict[str, Any]],
        keep: Callable[[float], None] = lambda keep_s: None,
        received: Callable[[str], None] = lambda request_id: None,
    ) -> None:
        """`hello`: see `hello_of`; `keep`: is told how long a request goes on whose Space is gone; `received`: which
        drawings have come to the Space.
        """
        self._line, self._hello, self._app, self._health = line, hello, app, health
        self._keep, self._received = keep, received
        self._keep_s = 0.0  # as the Space told it last
        self._connection: socket.socket | None = line.transport.get_extra_info("socket")
        self._begun_s = self._heard_s = time.monotonic()
        self.is_leaving = False
        self._requests: dict[int, LineRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beats: dict[int, float] = {}  # number -> when it was sent, monotonic
        self._acknowledges = False  # whether this Space tells what it has received
        self._unacknowledged: set[int] = set()
        self._settled = asyncio.Event()  # one task or acknowledgement less

    @property
    def age_s(self) -> float:
        """Seconds since the line was made."""
        return time.monotonic() - self._begun_s

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
            await self._send(**self._hello)
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
                request = LineRequest(message["id"], message["method"], message["path"], message["body"].encode())
                self._requests[request.id] = request
                task = asyncio.create_task(self._serve(request))
                self._tasks.add(task)
                task.add_done_callback(self._on_served)
            case "lease":
                self._on_lease(message["beat"], message["ids"])
                if (keep_s := message.get("keep_s")) is not None:
                    self._keep_s = float(keep_s)
                    self._keep(self._keep_s)
            case "hang_up":
                self._settle(message["id"])
                if request_ := self._requests.get(message["id"]):
                    request_.hang_up.set()
            case "received":
                self._received(str(message["request_id"]))
                self._settle(message["id"])
            case "hello" if message.get("protocol") == PROTOCOL:
                self._acknowledges = bool(message.get("acknowledges"))
            case "hello":
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
        """The line ends once the Space has all that was being drawn, or after `FINISH_S`."""
        await ending.wait()
        self.is_leaving = True
        code = CloseCode.GOING_AWAY
        with contextlib.suppress(ConnectionClosed):
            await self._send(type="leaving")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_S):
                    while self._tasks or self._unacknowledged:
                        self._settled.clear()
                        await self._settled.wait()
                    code = CloseCode.NORMAL_CLOSURE
            await self._line.close(code, "this worker ends")

    def _on_served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._settled.set()

    def _settle(self, request_id: int) -> None:
        self._unacknowledged.discard(request_id)
        self._settled.set()

    async def _serve(self, request: LineRequest) -> None:
        """Answers one request. Nothing of it is begun before the Space has confirmed that it is still wanted."""
        try:
            await self._send(type="accepted", id=request.id)
            async with asyncio.timeout(LEASE_S):
                await request.leased.wait()
            if self._acknowledges and request.method == "POST":
                self._unacknowledged.add(request.id)
            await answer_request(self._app, self._line, request)
            await self._send(type="end", id=request.id)
        except (TimeoutError, ConnectionClosed):
            pass
        except Exception:
            log.exception("request %d could not be answered", request.id)
            with contextlib.suppress(ConnectionClosed):
                await self._send(type="end", id=request.id, broken="the worker met a fault of its own, see its log")
        finally:
            self._requests.pop(request.id, None)
            if request.hang_up.is_set():  # nobody acknowledges what he has given up
                self._settle(request.id)

    async def _send(self, **message: Any) -> None:
        await self._line.send(json.dumps(message))


def hello_of(name: str, instance: str) -> dict[str, Any]:
    """How a worker introduces itself. `instance`: of this process."""
    return {"type": "hello", "protocol": PROTOCOL, "version": VERSION, "name": name, "instance": instance}


def _prepare(connection: socket.socket | None) -> None:
    """What an outage swallowed is soon sent again; where the kernel tells not how much it holds, it holds little."""
    if connection is None:
        return
    with contextlib.suppress(OSError):  # a line that is no more already, or an older kernel
        if unsent_bytes(connection) is None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MAX_MS)
