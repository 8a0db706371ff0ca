"""Deadlines for connections, which uvicorn lacks: a client that sends nothing, or reads nothing, is cut off.

Source: https://github.com/encode/uvicorn/blob/master/uvicorn/protocols/http/h11_impl.py
"""

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from inference_server.errors import invalid_inputs

HEADERS_DEADLINE_S = 20.0  # from the connection, or the first byte of a further request, to the end of the headers
READ_DEADLINE_S = 60.0  # for a client that does not take its answer
UNREAD_BODY_DEADLINE_S = 2.0  # for the rest of a body whose request was answered already
HANDSHAKE_DEADLINE_S = 15.0
QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux's


class DeadlineProtocol(H11Protocol):
    """uvicorn's h11 protocol with deadlines. Malformed HTTP is answered with JSON, not plain text."""

    _headers_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._acknowledge()
        if self.conn.their_state is h11.IDLE:
            self._await_headers()
        try:
            super().data_received(data)
        except UnicodeDecodeError:  # a path of bytes that are no ASCII
            self.send_400_response("The request's path is no ASCII.")
        if self.conn.their_state is not h11.IDLE:
            self._stop_headers_timer()

    def _acknowledge(self) -> None:
        """Acknowledges received bytes at once, not up to 40 ms later.

        The tutorial's tunnel leaves Nagle's algorithm on towards this server: a body waits there until its headers are
        acknowledged. Linux forgets the option, so it is set for each read: man 7 tcp.
        """
        connection = self.transport.get_extra_info("socket")
        if QUICKACK is not None and connection is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # answered before the body was read
            self.loop.call_later(UNREAD_BODY_DEADLINE_S, self._end_unread_body, self.cycle)

    def _end_unread_body(self, answered: RequestResponseCycle) -> None:
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is on its way already
            self.transport.abort()
            return
        body = invalid_inputs(msg).body()
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
        answer: list[Any] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in answer:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(READ_DEADLINE_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _await_headers(self) -> None:
        """The clock starts once; single bytes do not restart it."""
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(HEADERS_DEADLINE_S, self.transport.abort)

    def _stop_headers_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _stop_timers(self) -> None:
        self._stop_headers_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()


class DeadlineLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers cut a TLS handshake that is not done in time."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:
        if kwargs.get("ssl") is not None:
            kwargs.setdefault("ssl_handshake_timeout", HANDSHAKE_DEADLINE_S)
            kwargs.setdefault("ssl_shutdown_timeout", 1.0)
        return await super().create_server(*args, **kwargs)
