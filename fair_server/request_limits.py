"""What one request may cost: bounds of size and time for its headers and its body, and the shape of a refusal."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

import h11
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fair_server.errors import ApiError
from fair_server.wire import first_fault

_JSON_LIMIT_BYTES = 1024 * 1024
_JSON_S = 30.0  # how long a JSON body may take to come
_LINGER_S = 0.5  # how long, and how much of it, an unwelcome body is read so that its sender gets the answer
_LINGER_BYTES = 1024 * 1024
_BODY_PAUSE_S = 60.0  # the longest pause between two pieces of a body

_Model = TypeVar("_Model", bound=BaseModel)


class ClosingResponse(JSONResponse):
    """Answers a request at once although its body is unread, and closes the connection.

    A socket that is closed with bytes unread is reset, and the reset can overtake the answer. So a body that ends soon
    is read and dropped first (nginx's lingering close); one that goes on is cut.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, lingers, and closes."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if "expect" not in Headers(scope=scope):  # such a client waits to be asked for its body
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await _drop_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    dropped = 0
    while dropped < _LINGER_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def error_response(error: ApiError, close: bool = False) -> JSONResponse:
    """Returns the answer of a refusal; `close` also ends the connection, so that no further body is taken."""
    headers: dict[str, str] = {}
    close = close or error.status in (408, 413)
    if close:
        headers["Connection"] = "close"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = "5"
    body = {"error": {"code": error.code, "message": error.message}}
    response = ClosingResponse if close else JSONResponse
    return response(body, status_code=error.status, headers=headers)


async def body_pieces(request: Request, limit_bytes: int) -> AsyncIterator[bytes]:
    """Yields the body as it comes.

    Raises:
        ApiError: 413 TOO_LARGE beyond `limit_bytes`, before all of it was read; 408 TOO_SLOW.
    """
    too_large = ApiError(413, "TOO_LARGE", f"The body is larger than {limit_bytes} bytes.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise too_large
    taken = 0
    pieces = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(_BODY_PAUSE_S):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError as exc:
            raise ApiError(408, "TOO_SLOW", f"Nothing of the body came for {_BODY_PAUSE_S:.0f} s.") from exc
        taken += len(piece)
        if taken > limit_bytes:
            raise too_large
        yield piece


async def read_json(request: Request, model: type[_Model], limit_bytes: int = _JSON_LIMIT_BYTES) -> _Model:
    """Returns the checked JSON body.

    Raises:
        ApiError: 400 BAD_REQUEST with a sentence that names the wrong field; 413; 408.
    """
    try:
        async with asyncio.timeout(_JSON_S):
            body = b"".join([piece async for piece in body_pieces(request, limit_bytes)])
    except TimeoutError as exc:
        raise ApiError(408, "TOO_SLOW", f"The body did not come within {_JSON_S:.0f} s.") from exc
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise ApiError(400, "BAD_REQUEST", f"The request is wrong: {first_fault(exc)}") from exc


class DeadlineProtocol(H11Protocol):
    """uvicorn's h11 protocol, which cuts a connection when the headers of a request do not come in time.

    uvicorn has no such deadline, and idle connections would pile up. The clock starts with the connection, and with the
    first byte of each further request; until that byte uvicorn's own `timeout_keep_alive` counts. Further bytes do not
    start it anew.

    Source: https://github.com/encode/uvicorn/blob/master/uvicorn/protocols/http/h11_impl.py
    """

    headers_deadline_s = 20.0
    _headers_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._await_headers()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._headers_are_there()

    def _await_headers(self) -> None:
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.headers_deadline_s, self.transport.abort)

    def _headers_are_there(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
