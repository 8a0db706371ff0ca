"""One request that came over a worker's line, and the application's answer to it."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from inference_server.line_answer import LineAnswer

_ALLOWED = {"GET": "/healthcheck", "POST": "/", "DELETE": "/requests/"}


@dataclass
class LineRequest:
    """A request of the Space's. `until`: the end of its lease on the monotonic clock, None before its first one."""

    id: int
    method: str
    path: str
    body: bytes
    leased: asyncio.Event = field(default_factory=asyncio.Event)
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)
    until: float | None = None


async def answer_request(app: ASGIApp, line: ClientConnection, request: LineRequest) -> None:
    """The application's answer, line by line."""
    answer = LineAnswer(line, request.id)
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
        for one in lines:
            if one.strip():
                await answer.send_line(one)

    await app(_scope(request), receive, send)


@contextlib.contextmanager
def _hung_up(request: LineRequest) -> Iterator[None]:
    """A line that breaks while something is sent: as over HTTP, the application learns of it by its next `receive`."""
    try:
        yield
    except ConnectionClosed:
        request.hang_up.set()


def _is_allowed(method: str, path: str) -> bool:
    allowed = _ALLOWED.get(method)
    return allowed is not None and (path == allowed or (method == "DELETE" and path.startswith(allowed)))


def _scope(request: LineRequest) -> Scope:
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
