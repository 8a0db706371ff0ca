"""The Space's side of the line to one worker: requests go out, answers come back, over the WebSocket that it opened.

The messages are described in `inference_server/space_connection.py`. The socket belongs to the event loop of the
page's server; drawings wait for their answers on threads of their own.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from endpoint.exchange import End, Exchange, Head, Line
from endpoint.wire_format import Health, read_health
from errors import Absence, EndpointAnswerError

log = logging.getLogger(__name__)

PROTOCOL = 1
VERSION = (Path(__file__).resolve().parent.parent / "inference_server" / "VERSION").read_text().strip()
LEASE_EVERY_S = 2.5
SILENCE_S = 12.0  # a worker tells a beat every 2.5 s
HELLO_S = 15.0
HELLO_HEADER = "x-worker-hello"
ANSWER_BYTES_MAX = 64 * 1024 * 1024
_CLOSE_S = 5.0
_SENSELESS = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error),
    EndpointAnswerError,
)

Notice = Callable[["WorkerConnection"], None]


class WorkerConnection:
    """One worker's line. `run` belongs to the event loop; everything else may be called from any thread."""

    def __init__(self, socket: WebSocket, *, keep_s: Callable[[], float] = lambda: LEASE_EVERY_S) -> None:
        """`keep_s()`: how long the worker shall go on with what it draws when this line breaks."""
        self._socket, self._keep_s = socket, keep_s
        self._loop = asyncio.get_running_loop()
        self._exchanges: dict[int, Exchange] = {}
        self._accepted: set[int] = set()
        self._beat = -1
        self.opened_s = self.heard_s = time.monotonic()  # `heard_s`: when the newest message came
        self._superseded = asyncio.Event()
        self.instance = secrets.token_hex(8)  # of the worker's process, as it tells it; an old one does not
        self.name, self.version = "a worker", "?"
        self.health: Health | None = None
        self.leaving = False  # it ends: no other line of this process will come
        self.turned_away: str | None = None  # why it may not draw here
        self.ended: str | None = None  # why the line is no more

    @property
    def link(self) -> str:
        return f"Worker {self.name}"

    @property
    def is_going(self) -> bool:
        """It takes no more drawings: it said goodbye, or its line is no more."""
        return self.leaving or self.ended is not None

    def note_absence(self, absence: Absence) -> None:
        """It has refused a drawing for that; its next beat says more."""
        if self.health and not self.health.absence:
            self.health = self.health.model_copy(update={"absence": absence})

    @property
    def in_flight(self) -> int:
        """How many requests it answers now, drawings for the most part."""
        return len(self._exchanges)

    def supersede(self) -> None:
        """Its process has dialled again, so that this line is dead. On the event loop."""
        self._superseded.set()

    async def run(self, on_health: Notice, on_hello: Notice) -> None:
        """Receives until the line ends. `on_hello` is called once, `on_health` at every beat, with this connection.

        The caller has accepted the socket.
        """
        tasks = [
            asyncio.create_task(self._receive(on_health, on_hello)),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._wait_for_a_newer_one()),
        ]
        why = "the line broke"
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            why = next((told for task in ended if (told := task.result())), why)
        except _SENSELESS as error:
            why = "it sent what this Space does not understand"
            log.warning("%s: %s (%s)", self.link, why, type(error).__name__)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            pass
        finally:
            self._end("it said goodbye" if self.leaving else why)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._socket.close(1011, (self.ended or "")[:120])

    async def _wait_for_a_newer_one(self) -> str:
        await self._superseded.wait()
        return "it has dialled again"

    async def _receive(self, on_health: Notice, on_hello: Notice) -> str | None:
        """Takes the worker's messages in; returns why the line ends, None where it broke."""
        await self._send(type="hello", protocol=PROTOCOL, version=VERSION, acknowledges=True)
        hello = _hello_in(self._socket.headers.get(HELLO_HEADER, ""))
        if hello is None:
            async with asyncio.timeout(HELLO_S):
                hello = json.loads(await self._socket.receive_text())
        if why := self._greet(hello):
            return why
        on_hello(self)
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            self.heard_s = time.monotonic()
            if (data := message.get("bytes")) is not None:
                self._on_picture(data)
            elif self._on_message(json.loads(message["text"]), on_health):
                await self._grant()
        return None

    def _greet(self, hello: dict[str, Any]) -> str | None:
        """Takes the worker in; returns why not, when its version does not fit."""
        self.name = _printable(hello.get("name") or "", 64) or "a worker"
        protocol = hello.get("protocol")
        if hello.get("type") != "hello" or protocol != PROTOCOL:
            older = (
                "worker (docker build, docker run)" if (protocol or 0) < PROTOCOL else "Space (python manage.py deploy)"
            )
            ours = f"this Space version {PROTOCOL}"
            why = f"it speaks version {protocol} of the workers' protocol, {ours}: update the {older}"
            self.turned_away = why
            log.warning("%s cannot draw here: %s", self.link, why)
            return why
        self.version = _printable(hello.get("version"), 32)
        self.instance = _printable(hello.get("instance") or self.instance, 64)
        return None

    def _on_message(self, message: dict[str, Any], on_health: Notice) -> bool:
        """Returns whether the worker waits for its lease now."""
        kind = message["type"]
        if kind == "beat":
            self._beat = int(message["beat"])
            self.health = read_health(self.link, json.dumps(message["health"]))
            on_health(self)
        elif kind == "leaving":
            self.leaving = True
        elif kind == "hello":
            return False  # it stood in the line's first request already
        elif exchange := self._exchanges.get(message["id"]):
            self._on_answer(kind, message, exchange)
        return bool(kind == "accepted")

    def _on_answer(self, kind: str, message: dict[str, Any], exchange: Exchange) -> None:
        match kind:
            case "accepted":
                self._accepted.add(exchange.id)
            case "head":
                exchange.pieces.put(Head(int(message["status"]), str(message["retry_after"] or "")))
            case "line":
                content = message["line"]
                if not isinstance(content, dict):
                    raise TypeError("a line is an object")
                files = tuple(exchange.pictures.pop(number) for number in range(message["pictures"]))
                exchange.pieces.put(Line(content, files))
            case "end":
                exchange.pieces.put(End(message.get("broken")))

    def _on_picture(self, data: bytes) -> None:
        request_id, number = struct.unpack_from(">II", data)
        exchange = self._exchanges.get(request_id)
        if exchange is None:
            return
        exchange.heard_s = time.monotonic()
        exchange.received_bytes += len(data)
        if exchange.received_bytes > ANSWER_BYTES_MAX:
            self._exchanges.pop(request_id, None)  # what else comes of it finds nobody
            exchange.pieces.put(End(f"more than {ANSWER_BYTES_MAX // 2**20} MB came back", refused=True))
            return
        exchange.pictures.setdefault(number, bytearray()).extend(data[8:])

    async def _watch(self) -> str:
        """Renews the leases until the worker is silent; a suspended Space grants one fresh window first."""
        looked = fresh = time.monotonic()
        while True:
            await asyncio.sleep(LEASE_EVERY_S)
            now = time.monotonic()
            if now - looked > 2 * LEASE_EVERY_S:
                fresh = now
            looked = now
            if now - max(self.heard_s, fresh) > SILENCE_S:
                return f"nothing came for {SILENCE_S:g} s"
            await self._grant()

    async def _grant(self) -> None:
        self._accepted &= self._exchanges.keys()
        await self._send(type="lease", beat=self._beat, ids=sorted(self._accepted), keep_s=self._keep_s())

    async def _send(self, **message: Any) -> None:
        """Raises: TimeoutError when the line has been full for as long as a worker may be silent."""
        async with asyncio.timeout(SILENCE_S):
            await self._socket.send_text(json.dumps(message))

    def _end(self, why: str) -> None:
        self.ended = why
        for exchange in list(self._exchanges.values()):
            exchange.pieces.put(End(why))

    @contextlib.contextmanager
    def request(self, method: str, path: str, body: bytes = b"") -> Iterator[Exchange]:
        """Sends a request; the answer comes piece by piece. Left early, the worker is told that nobody waits."""
        exchange = Exchange()
        self._exchanges[exchange.id] = exchange
        if self.ended is not None:
            exchange.pieces.put(End(self.ended))
        else:
            self._post(type="request", id=exchange.id, method=method, path=path, body=body.decode())
        finished = False
        try:
            yield exchange
            finished = True
        finally:
            self._exchanges.pop(exchange.id, None)
            if not finished and self.ended is None:
                self._post(type="hang_up", id=exchange.id)

    def acknowledge(self, exchange: Exchange, request_id: str) -> None:
        """Tells the worker that the picture of this drawing is here: it need not keep it any longer."""
        if self.ended is None:
            self._post(type="received", id=exchange.id, request_id=request_id)

    def _post(self, **message: Any) -> None:
        """Sends from another thread; a line that breaks meanwhile ends every exchange by itself."""

        async def send() -> None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
                await self._send(**message)

        sending = send()
        try:
            asyncio.run_coroutine_threadsafe(sending, self._loop)
        except RuntimeError:  # that loop is closed
            sending.close()
            self._end("this Space's server has ended")


def _hello_in(header: str) -> dict[str, Any] | None:
    """The worker's hello as it stands in the request that opened the line; None for an older worker's."""
    try:
        hello = json.loads(header)
    except (ValueError, RecursionError):
        return None
    return hello if isinstance(hello, dict) else None


def _printable(text: Any, length: int) -> str:
    """What a worker calls itself, fit for a log and a page."""
    return "".join(character for character in str(text) if character.isprintable())[:length]
