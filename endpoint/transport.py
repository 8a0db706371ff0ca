"""Sends requests to one inference endpoint: a kept-alive, pinned session, bounded reading, typed errors.

Over https the server's certificate is pinned by its SHA-256: then nothing else is trusted, no certificate authority and
no environment (a `REQUESTS_CA_BUNDLE` would switch the pin off). Without a pin it is verified as usual, for the URL's
host name.

Source of the pinning: urllib3's `assert_fingerprint`, which works only with verification off.
"""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from endpoint.transport_errors import Advice, TransportErrors, read_error
from endpoint.wire_format import read_object
from errors import BusyError, EndpointAnswerError, EndpointUnreachableError, SpaceError
from network.http_errors import HTTP_FAULTS

ANSWER_BYTES_MAX = 64 * 1024 * 1024
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux's
# Pieces no larger than on the Internet, on loopback too: there the tunnel's 8 KB count as small ones, and each small
# piece waits for the acknowledgement of the one before (see `_acknowledge`). Not on macOS: it refuses so much before
# the connection is there, and with it every connection.
_SMALL_PIECES = [(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)] if sys.platform == "linux" else []
_SOCKET_OPTIONS = [*HTTPConnection.default_socket_options, *_SMALL_PIECES]
_REFUSAL_S = 5.0  # how long a refusal may take to be read
_DRAIN_S = 1.0  # how long the end of an answer may lag behind its result


class _Adapter(HTTPAdapter):
    def __init__(self, certificate_sha256: str | None) -> None:
        self._pin = certificate_sha256
        super().__init__(pool_connections=1, pool_maxsize=64)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs["socket_options"] = _SOCKET_OPTIONS
        if self._pin:
            kwargs["assert_fingerprint"] = self._pin
        super().init_poolmanager(*args, **kwargs)


@dataclass(frozen=True)
class Answer:
    """One line of an answer: a JSON object, and the files of its pictures where they do not stand in it."""

    content: dict[str, Any]
    files: tuple[bytes, ...] = ()


class Transport:
    """What every way to an endpoint has: its address, its errors, and how a refusal is read."""

    def __init__(self, url: str, trouble: TransportErrors) -> None:
        self.url = url
        self.trouble = trouble

    def request(
        self, method: str, path: str, *, tried: str, timeout_s: float, data: bytes | None = None
    ) -> contextlib.AbstractContextManager[Any]:
        """A response with `status_code` and `headers`, closed afterwards; every trouble a typed error."""
        raise NotImplementedError

    def lines(self, response: Any, tried: str, go_on: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """The lines of a body as they come; `go_on()` is asked at every piece of it, and several times a second."""
        raise NotImplementedError

    def answers(self, response: Any, tried: str, go_on: Callable[[], None] = lambda: None) -> Iterator[Answer]:
        """The lines of a body as objects, as they come. Raises: EndpointAnswerError for a line that is none."""
        for line in self.lines(response, tried, go_on):
            yield Answer(read_object(self.trouble.link, line))

    def drain(self, response: Any) -> None:
        """Reads to the end of an answer, so that its connection serves again."""

    def acknowledge(self, response: Any, request_id: str) -> None:
        """Tells the server that the result of this request has come whole, where it waits for that."""

    def renew(self) -> None:
        """The next request takes a fresh connection."""

    def close(self) -> None:
        """Closes the idle connections."""

    def refusal(self, response: Any, tried: str) -> SpaceError:
        """The typed error for an answer that is not 200: what our server says, or what stands in front of it."""
        status, text = response.status_code, ""
        with contextlib.suppress(EndpointAnswerError, EndpointUnreachableError):
            text = b" ".join(self.lines(response, tried, self.within(_REFUSAL_S, tried))).decode(errors="replace")
        told, retry_after_s = _error_of(text), _retry_after_s(response)
        if told is not None or status == 401:
            return read_error(self.trouble.link, told, tried=tried, status=status, retry_after_s=retry_after_s or 5.0)
        came_back = f"it answered {status} {text[:200]}".rstrip()
        if status == 429 or (status == 503 and retry_after_s is not None):
            return BusyError("the picture server has enough to do just now.", retry_after_s=retry_after_s or 5.0)
        if status in (502, 503, 504):  # a proxy in front, and nobody behind it
            return self.trouble.unreachable("closed", tried, came_back)
        where = response.headers.get("Location")
        return self.trouble.wrong_answer(
            tried, f"{came_back} (to {where[:200]}; redirects are not followed)" if where else came_back
        )

    def within(self, seconds: float, tried: str) -> Callable[[], None]:
        """For `lines`: an answer that is not whole after `seconds` counts as silence, however lively it drips."""
        deadline = time.monotonic() + seconds

        def go_on() -> None:
            if time.monotonic() > deadline:
                raise self.trouble.unreachable("silent", tried, f"the answer was not whole after {seconds:g} s")

        return go_on


class EndpointTransport(Transport):
    """Requests to one endpoint; safe to use from many threads at once. See `EndpointClient` for the parameters."""

    def __init__(
        self, url: str, *, bearer: str | None, certificate_sha256: str | None, authorities: str | None, advice: Advice
    ) -> None:
        super().__init__(url.rstrip("/"), TransportErrors(url.rstrip("/"), advice, pinned=bool(certificate_sha256)))
        self._bearer = bearer
        self._pin = certificate_sha256
        self._authorities = authorities
        self._lock = threading.Lock()
        self._session = self._new_session()

    def close(self) -> None:
        """Closes the idle connections."""
        self._session.close()

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, *, tried: str, timeout_s: float, data: bytes | None = None
    ) -> Iterator[requests.Response]:
        """A streamed response, closed afterwards; every transport error typed."""
        headers = {"Content-Type": "application/json"} if data else {}
        since = time.monotonic()
        try:
            response = self._session.request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                timeout=(min(5.0, timeout_s), timeout_s),
                stream=True,
                allow_redirects=False,
            )
        except HTTP_FAULTS as error:
            raise self.trouble.of_transport(tried, error, since) from error
        try:
            yield response
        finally:
            response.close()

    def lines(
        self, response: requests.Response, tried: str, go_on: Callable[[], None] = lambda: None
    ) -> Iterator[bytes]:
        """The lines of a body as they come, without the empty ones; `go_on()` is asked at every piece of it."""
        parts: list[bytes] = []
        for piece in self._pieces(response, tried):
            go_on()
            *ends, rest = piece.split(b"\n")
            for end in ends:
                line = b"".join([*parts, end])
                parts.clear()
                if line.strip():
                    yield line
            parts.append(rest)
        if b"".join(parts).strip():
            yield b"".join(parts)

    def _pieces(self, response: requests.Response, tried: str) -> Iterator[bytes]:
        """The body as it comes, bounded in bytes. `iter_content` would wait for 64 KB of a body that is not chunked."""
        total, since = 0, time.monotonic()
        try:
            _acknowledge(response)
            while piece := response.raw.read1(65536, decode_content=False):
                _acknowledge(response)
                total += len(piece)
                if total > ANSWER_BYTES_MAX:
                    break
                yield piece
                since = time.monotonic()
            else:
                return
        except HTTP_FAULTS as error:
            raise self.trouble.of_transport(tried, error, since) from error
        raise self.trouble.wrong_answer(tried, f"more than {ANSWER_BYTES_MAX // 2**20} MB came back")

    def drain(self, response: requests.Response) -> None:
        """Reads to the end of an answer, so that its connection serves again; not for long."""
        connection = response.raw.connection
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(_DRAIN_S)
        deadline = time.monotonic() + _DRAIN_S
        with contextlib.suppress(SpaceError):
            for _ in self._pieces(response, "read to its end"):
                if time.monotonic() > deadline:
                    break

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers["Accept-Encoding"] = "identity"
        if self._bearer:
            session.headers["Authorization"] = f"Bearer {self._bearer}"
        session.verify = False if self._pin else self._authorities or True
        session.mount("https://", _Adapter(self._pin))
        session.mount("http://", _Adapter(None))
        return session

    def renew(self) -> None:
        """Leaves the old connections to those who still use them."""
        with self._lock:
            self._session = self._new_session()


def _acknowledge(response: requests.Response) -> None:
    """Acknowledges what has come at once, instead of up to 40 ms later.

    The tunnel leaves Nagle's algorithm on towards its visitors (only the channels between its two ends are spared), so
    the next piece of an answer waits there until this one is acknowledged. Linux forgets the option: man 7 tcp.
    """
    connection = response.raw.connection
    if _QUICKACK is not None and connection is not None and connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def _error_of(text: str) -> Any:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return answer.get("$error") if isinstance(answer, dict) else None


def _retry_after_s(response: Any) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 3600.0) if value.isdecimal() else None
