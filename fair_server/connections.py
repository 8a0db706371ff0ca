"""A deadline for connections that say nothing, which uvicorn has none of: idle ones would pile up without end.

Source: https://github.com/encode/uvicorn/blob/master/uvicorn/protocols/http/h11_impl.py
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class DeadlineProtocol(H11Protocol):
    """uvicorn's h11 protocol: a connection is cut when the headers of a request do not come in time.

    The clock starts with the connection, and with the first byte of each further request; until that byte uvicorn's
    own `timeout_keep_alive` counts. Single bytes do not wind it up again.
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
