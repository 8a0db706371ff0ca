"""Requests to one worker over its line, in the shape that `EndpointClient` knows from HTTP."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from endpoint.exchange import End, Exchange, Head, Line, Piece
from endpoint.transport import Answer, Transport
from endpoint.transport_errors import Advice, TransportErrors
from endpoint.worker_connection import WorkerConnection

ADVICE = Advice(runs="the worker runs and its line to this Space holds (its log tells)", address="SPACE at the worker")
_GO_ON_EVERY_S = 0.25  # how late a cancel may be noticed while nothing comes


@dataclass
class WorkerResponse:
    """An answer whose head has come."""

    status_code: int
    exchange: Exchange
    silence_s: float
    headers: dict[str, str] = field(default_factory=dict)


class WorkerTransport(Transport):
    """Requests to one worker; safe to use from many threads at once."""

    def __init__(self, connection: WorkerConnection) -> None:
        super().__init__(f"worker:{connection.name}", TransportErrors("", ADVICE, connection.link))
        self._connection = connection

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, *, tried: str, timeout_s: float, data: bytes | None = None
    ) -> Iterator[WorkerResponse]:
        """The answer, once its head is there; every trouble a typed error."""
        with self._connection.request(method, path, data or b"") as exchange:
            head = self._next(exchange, tried, timeout_s)
            if isinstance(head, End):
                raise self.trouble.unreachable("closed", tried, "the answer broke off before it began")
            if not isinstance(head, Head):
                raise self.trouble.wrong_answer(tried, "an answer without a beginning came back")
            headers = {"Retry-After": head.retry_after} if head.retry_after else {}
            yield WorkerResponse(head.status, exchange, timeout_s, headers)

    def lines(self, response: WorkerResponse, tried: str, go_on: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """The lines of the answer as they come; `go_on()` is asked several times a second."""
        for answer in self.answers(response, tried, go_on):
            yield json.dumps(answer.content).encode()

    def answers(
        self, response: WorkerResponse, tried: str, go_on: Callable[[], None] = lambda: None
    ) -> Iterator[Answer]:
        """See `Transport`. Pictures come as they are, not as text: on the line they were frames of their own."""
        while isinstance(piece := self._next(response.exchange, tried, response.silence_s, go_on), Line):
            yield Answer(piece.content, tuple(bytes(file) for file in piece.files))

    def _next(
        self, exchange: Exchange, tried: str, timeout_s: float, go_on: Callable[[], None] = lambda: None
    ) -> Piece:
        """Waits for the next piece as long as something comes, on a slow line the bytes of a picture.

        Raises: EndpointUnreachableError when the line is lost or silent, EndpointAnswerError for too large an answer.
        """
        since = time.monotonic()
        while True:
            go_on()
            try:
                piece = exchange.next(min(_GO_ON_EVERY_S, timeout_s))
            except TimeoutError:
                waited = time.monotonic() - max(since, exchange.heard_s)
                if waited > timeout_s:
                    raise self.trouble.unreachable("silent", tried, f"nothing came for {waited:.1f} s") from None
                continue
            if isinstance(piece, End) and piece.broken is not None:
                if piece.refused:
                    raise self.trouble.wrong_answer(tried, piece.broken)
                raise self.trouble.unreachable("closed", tried, piece.broken)
            return piece

    def drain(self, response: WorkerResponse) -> None:
        """Nothing to read on: the line is shared by all requests."""

    def acknowledge(self, response: WorkerResponse, request_id: str) -> None:
        """See `Transport`."""
        self._connection.acknowledge(response.exchange, request_id)

    def renew(self) -> None:
        """A new line is the worker's to make."""

    def close(self) -> None:
        """The line stays: it is the worker's."""
