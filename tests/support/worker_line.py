"""Both ends of a worker's line in this process: the Space's WebSocket server, a relay that can be cut, the worker."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send
from websockets.sync.client import connect

from backends.workers import Workers
from drawing.models import GenerationRequest
from endpoint.worker_connection import PROTOCOL
from errors import EndpointUnreachableError
from inference_server.connect import serve_space
from inference_server.space import Space

KEY = "k" * 64
DEADLINE_S = 30.0
LIMITS = {"num_inference_steps": {"min": 1, "max": 50}, "width": {"min": 64, "max": 256, "multiple": 64}}


def png(seed: int) -> bytes:
    """A small picture whose colour is its seed."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (seed % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


class DrawingApp:
    """What answers at the worker: a health, and pictures that wait for `may_finish`; results are kept by their id.

    `drawn` counts how often a request's picture was really made.
    """

    def __init__(self) -> None:
        self.drawn: Counter[str] = Counter()
        self.posted: list[str] = []
        self.kept_s: list[float] = []
        self.received: list[str] = []  # which the Space has acknowledged
        self.hung_up: list[str] = []
        self.cancelled: list[str] = []
        self.posts = threading.Semaphore(0)
        self.may_finish = threading.Event()
        self.may_finish.set()
        self._kept: dict[str, bytes] = {}

    def health(self) -> dict[str, Any]:
        return {
            "state": "healthy",
            "gpu": True,
            "engine": "ready",
            "model": "a-model",
            "limits": LIMITS,
            "defaults": {},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "DELETE":
            self.cancelled.append(scope["path"].rpartition("/")[2])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        body = json.loads((await receive())["body"])
        request_id = body["callInputs"]["startRequestId"]
        self.posted.append(request_id)
        self.posts.release()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await _line(send, {"type": "inference", "status": "start", "payload": {"startRequestId": request_id}})
        hang_up = asyncio.ensure_future(receive())
        try:
            while request_id not in self._kept and not self.may_finish.is_set():
                if hang_up.done():
                    self.hung_up.append(request_id)
                    return
                await _line(send, {"type": "progress", "step": 1, "total_steps": 5, "num_inference_steps": 5})
                await asyncio.sleep(0.02)
            if request_id not in self._kept:
                self.drawn[request_id] += 1
                seed = body["modelInputs"]["seed"]
                picture = base64.b64encode(png(seed)).decode()
                self._kept[request_id] = json.dumps({"image_base64": picture, "$meta": {"seeds": [seed]}}).encode()
            await send({"type": "http.response.body", "body": self._kept[request_id] + b"\n"})
        finally:
            hang_up.cancel()


async def _line(send: Send, content: dict[str, Any]) -> None:
    message: Message = {"type": "http.response.body", "body": json.dumps(content).encode() + b"\n", "more_body": True}
    await send(message)


class Relay:
    """A line on loopback: it can be cut, and held so that nothing passes while both ends believe in it."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._sockets: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self._frozen: list[threading.Event] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Nothing passes from now on."""
        self._flows.clear()

    def freeze_old(self) -> None:
        """Nothing passes over the connections that there are, and both ends believe in them; new ones are as new."""
        old, self._flows = self._flows, threading.Event()
        self._frozen.append(old)
        self._flows.set()
        old.clear()

    def flow(self) -> None:
        """What is held passes, and all after it."""
        self._flows.set()

    def cut(self) -> None:
        """Every connection breaks; new ones are taken."""
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for flows in (self._flows, *self._frozen):
            flows.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                near.close()
                continue
            self._sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pour, args=(source, sink, self._flows), daemon=True).start()

    def _pour(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                flows.wait()
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class SpaceSide:
    """A Space's server with `/worker`, on a port of its own or a given one."""

    def __init__(self, workers: Workers, port: int = 0) -> None:
        self.workers = workers
        self._server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=workers.routes()), log_level="error", lifespan="off")
        )
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(DEADLINE_S)
        self._socket.close()


class Worker:
    """A worker on a thread of its own; it connects to `place`, an address or a port of this machine, until `stop`."""

    def __init__(self, place: int | str, *, name: str = "box1", key: str = KEY, app: DrawingApp | None = None) -> None:
        self.app = app or DrawingApp()
        self._space = Space(place if isinstance(place, str) else f"http://127.0.0.1:{place}", name, key)
        self._loop = asyncio.new_event_loop()
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._ending = asyncio.Event()
        app = self.app
        await serve_space(
            self._space, app, app.health, self._ending, keep=app.kept_s.append, received=app.received.append
        )

    def end(self) -> None:
        """As SIGTERM does."""
        if self._ending is not None:
            self._loop.call_soon_threadsafe(self._ending.set)

    def stop(self) -> None:
        self.app.may_finish.set()
        self.end()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


class RawWorker:
    """A worker whose every message the test says itself. `early`: it says its hello in the line's first request alone,
    and nothing else by itself.
    """

    def __init__(
        self, port: int, name: str = "raw", instance: str | None = None, *, early: bool = False, **health: object
    ) -> None:
        self._stack = contextlib.ExitStack()
        hello = {"type": "hello", "protocol": PROTOCOL, "version": "0.1.0", "name": name, "instance": instance}
        headers = {"X-Worker-Key": KEY, **({"X-Worker-Hello": json.dumps(hello)} if early else {})}
        self.line = self._stack.enter_context(connect(f"ws://127.0.0.1:{port}/worker", additional_headers=headers))
        if not early:
            self.say(**hello)
            self.beat(**health)

    def close(self) -> None:
        self._stack.close()

    def beat(self, **health: object) -> None:
        """A healthy worker's beat, but for what `health` says."""
        self.say(type="beat", beat=0, health={**DrawingApp().health(), **health})

    def say(self, **message: object) -> None:
        self.line.send(json.dumps(message))

    def hear(self, kind: str) -> dict[str, Any]:
        """The next message of that type."""
        while True:
            message: dict[str, Any] = json.loads(self.line.recv(DEADLINE_S))
            if message["type"] == kind:
                return message

    def take(self) -> dict[str, Any]:
        """The next request, accepted."""
        request = self.hear("request")
        self.say(type="accepted", id=request["id"])
        return request

    def refuse(self, request_id: int, code: str) -> None:
        """A refusal of that code."""
        self.say(type="head", id=request_id, status=503, retry_after="5")
        self.say(type="line", id=request_id, line={"$error": {"code": code, "message": "not now"}}, pictures=0)
        self.say(type="end", id=request_id)

    def answer(self, request_id: int, seed: int, *lines: object) -> None:
        """The picture of that seed, whole, after these lines."""
        self.say(type="head", id=request_id, status=200, retry_after=None)
        for line in lines:
            self.say(type="line", id=request_id, line=line, pictures=0)
        self.line.send(struct.pack(">II", request_id, 0) + png(seed))
        self.say(type="line", id=request_id, line={"$meta": {"seeds": [seed]}}, pictures=1)
        self.say(type="end", id=request_id)


class Drawing(threading.Thread):
    """A drawing as a job makes it: ensure, draw, and once more when the worker is lost."""

    def __init__(self, workers: Workers, seed: int, job_id: str | None = None) -> None:
        super().__init__(daemon=True)
        self._workers, self._seed, self._job_id = workers, seed, job_id or f"job-{seed}"
        self.cancelled = threading.Event()
        self.events: list[Any] = []
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        request = GenerationRequest("a red apple", seed=self._seed)
        for attempt in range(3):
            try:
                self._workers.ensure(self.events.append, self.cancelled.is_set)
                self.outcome = self._workers.draw(
                    request, job_id=self._job_id, tell=self.events.append, cancelled=self.cancelled.is_set
                )
            except Exception as error:
                self.outcome = error
                if attempt < 2 and isinstance(error, EndpointUnreachableError):
                    continue
            return

    def result(self) -> Any:
        """What came of it."""
        self.join(DEADLINE_S)
        assert not self.is_alive(), "the drawing has not ended"
        return self.outcome


@contextlib.contextmanager
def space_side(workers: Workers, port: int = 0) -> Iterator[SpaceSide]:
    space = SpaceSide(workers, port)
    try:
        yield space
    finally:
        space.stop()


@contextlib.contextmanager
def worker(place: int | str, **options: Any) -> Iterator[Worker]:
    it = Worker(place, **options)
    try:
        yield it
    finally:
        it.stop()


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    line = Relay(port)
    try:
        yield line
    finally:
        line.close()
