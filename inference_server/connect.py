"""A worker's side of its line to a Space: no port listens, a WebSocket over HTTPS brings the requests.

What is asked and answered is the same as over HTTP (`routes.py`), by the same code. On the line, texts are JSON objects
whose `type` says what they are, and binary frames are pieces of pictures.

From the Space:  hello {protocol, version}; request {id, method, path, body}; lease {beat, ids}; hang_up {id}
From the worker: hello {protocol, version, name}; beat {beat, health}; accepted {id}; head {id, status, retry_after};
                 line {id, line, pictures}; end {id, broken}; leaving {}
Binary, from the worker: the request's id and the picture's number (4 bytes each, big endian), then bytes of its file.

A request is an offer until its first lease: a Space that gave it to somebody else meanwhile grants none. A lease ends
`LEASE_S` after the newest beat that the Space had seen when it granted it, so that neither delays nor clocks matter.
"""

import asyncio
import base64
import contextlib
import json
import logging
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp, Message, Scope
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

log = logging.getLogger("inference_server.connect")

PROTOCOL = 1
VERSION = "0.1.0"
BEAT_S = 2.5
LEASE_S = 10.0
PIECE_BYTES = 16 * 1024  # a beat goes between two pieces: half a second at 0.25 Mbit/s
FINISH_S = 30.0  # for what is being drawn when this process is told to end
_PING_S, _PONG_S = 5.0, 10.0  # a dead line is found within the sum
_MESSAGE_BYTES_MAX = 32 * 1024 * 1024
_SEND_BUFFER_BYTES = 64 * 1024  # what the kernel holds delays every beat behind it
_ALLOWED = {"GET": "/healthcheck", "POST": "/", "DELETE": "/requests/"}


@dataclass(frozen=True)
class Space:
    """Where to connect. `url`: the Space's, http or https; `name`: what this worker is called there."""

    url: str
    name: str
    key: str = field(repr=False)
    hub_token: str | None = field(default=None, repr=False)  # for a private Space

    @property
    def address(self) -> str:
        """The WebSocket's URL."""
        return f"ws{self.url.removeprefix('http').rstrip('/')}/worker"

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Worker-Key": self.key}
        if self.hub_token:
            headers["Authorization"] = f"Bearer {self.hub_token}"
        return headers


def space_of(connect_to: str | None, environment: Mapping[str, str]) -> Space | None:
    """The Space of `--connect` or SPACE; None when neither is given. Raises: ValueError saying what is wrong."""
    given = connect_to or environment.get("SPACE", "").strip()
    if not given:
        return None
    key = environment.get("WORKER_KEY", "").strip("\u200b \t\r\n")
    if not key:
        raise ValueError("WORKER_KEY is not set: `python manage.py worker-key` prints it, on the Space's side.")
    name = environment.get("WORKER_NAME", "").strip() or socket.gethostname()
    return Space(_url_of(given), name[:64], key, environment.get("HF_TOKEN", "").strip() or None)


def _url_of(given: str) -> str:
    """`owner/name` is served at `https://owner-name.hf.space`, lower case, what is no letter or digit as `-`."""
    if "://" not in given:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", given, re.ASCII):
            raise ValueError(f"SPACE is owner/name, or --connect an address; {given!r} is neither.")
        return f"https://{re.sub('[^a-z0-9]+', '-', given.lower()).strip('-')}.hf.space"
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--connect takes https://owner-name.hf.space; {given!r} is no such address.")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("--connect takes plain http to this machine only: on the way the key could be read.")
    return given.rstrip("/")


async def serve_space(space: Space, app: ASGIApp, health: Callable[[], dict[str, Any]], ending: asyncio.Event) -> None:
    """Draws what the Space sends until `ending` is set; then what is being drawn has `FINISH_S` to be finished.

    `app` answers the requests; `health`: the healthcheck's object. A line that breaks is made again for ever.
    """
    connected = asyncio.Event()
    serving = asyncio.create_task(_reconnect(space, app, health, ending, connected))
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
) -> None:
    complaints = _Complaints(space)
    connecting = connect(
        space.address,
        additional_headers=space.headers,
        compression=None,  # pictures are compressed already
        open_timeout=20,
        ping_interval=_PING_S,
        ping_timeout=_PONG_S,
        close_timeout=5,
        max_size=_MESSAGE_BYTES_MAX,
        reconnect_delays=_delays,
        process_exception=complaints.note,
        logger=_quiet(),
    )
    async for line in connecting:
        complaints.connected()
        connected.set()
        await SpaceConnection(line, space.name, app, health).run(ending)
        connected.clear()
        if ending.is_set():
            return
        log.warning("the line to %s broke (%s); connecting again", space.url, _closed_because(line))
        await asyncio.sleep(random.uniform(0, 1))  # noqa: S311  all workers of a Space that restarts come back at once


def _delays() -> Generator[float]:
    """Between two tries, s: within a second at first, at most ten."""
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
            403: "the key is wrong: `python manage.py worker-key` prints the one that belongs to the Space's secret",
            404: "no worker may connect there: is it the right Space, with ENDPOINT_SECRET set, and not private "
            "(else HF_TOKEN is needed)?",
            426: "a proxy on the way lets no WebSocket through",
        }
        return f"it answered {status}; " + advice.get(status, "it starts or is paused; it is tried again")


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

    def __init__(self, line: ClientConnection, name: str, app: ASGIApp, health: Callable[[], dict[str, Any]]) -> None:
        self._line, self._name, self._app, self._health = line, name, app, health
        self._requests: dict[int, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beats: dict[int, float] = {}  # number -> when it was sent, monotonic
        self._leaving = False

    async def run(self, ending: asyncio.Event) -> None:
        """Returns when the line is broken, or when `ending` was set and what was being drawn is done."""
        connection = self._line.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        beating = asyncio.create_task(self._beat())
        leaving = asyncio.create_task(self._leave(ending))
        try:
            await self._send(type="hello", protocol=PROTOCOL, version=VERSION, name=self._name)
            async for message in self._line:
                if isinstance(message, str):
                    self._on_message(json.loads(message))
        except ConnectionClosed:
            pass
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
            case "hang_up":
                if request_ := self._requests.get(message["id"]):
                    request_.hang_up.set()
            case "hello" if message.get("protocol") != PROTOCOL:
                log.error(
                    "the Space speaks version %s of the workers' protocol and this worker version %d: update the %s",
                    *(message.get("protocol"), PROTOCOL),
                    "worker (docker build, docker run)"
                    if message.get("protocol", 0) > PROTOCOL
                    else "Space (git push)",
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
        if not _is_allowed(request.method, request.path):
            await self._send(type="head", id=request.id, status=404, retry_after=None)
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
                await self._send(type="head", id=request.id, status=message["status"], retry_after=retry_after)
                return
            *lines, rest = (rest + message.get("body", b"")).split(b"\n")
            if not message.get("more_body"):
                lines, rest = [*lines, rest], b""
            for line in lines:
                if line.strip():
                    await self._send_line(request.id, line)

        await self._app(_scope(request), receive, send)

    async def _send_line(self, request_id: int, line: bytes) -> None:
        """A line of the answer; its finished pictures go ahead of it, in pieces."""
        content = json.loads(line)
        encoded = content.pop("images_base64", None) or (
            [content.pop("image_base64")] if "image_base64" in content else []
        )
        for number, picture in enumerate(encoded):
            file, head = base64.b64decode(picture), struct.pack(">II", request_id, number)
            for start in range(0, len(file), PIECE_BYTES):
                await self._line.send(head + file[start : start + PIECE_BYTES])
        await self._send(type="line", id=request_id, line=content, pictures=len(encoded))

    async def _send(self, **message: Any) -> None:
        await self._line.send(json.dumps(message))


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
