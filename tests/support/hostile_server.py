"""A small HTTP server in a thread that answers as its test says: wrongly, by halves, late, or not at all.

Written on sockets, since what it has to do no well-behaved server can.
"""

import contextlib
import json
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endpoint.credentials import Credentials


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def start_request_id(self) -> str:
        return str(json.loads(self.body)["callInputs"]["startRequestId"])


@dataclass
class Line:
    """One connection, as the script of a test sees it."""

    socket: socket.socket
    stopped: threading.Event
    headers_sent: bool = field(default=False)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, status: int = 200, body: bytes | str = b"", **headers: str) -> None:
        """A whole answer, after which the connection may be used again."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        rows = "".join(f"{name}: {value}\r\n" for name, value in {"Content-Length": str(len(data)), **named}.items())
        self.send(f"HTTP/1.1 {status} Whatever\r\n{rows}\r\n".encode() + data)

    def start_stream(self, status: int = 200) -> None:
        rows = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
        self.send(f"HTTP/1.1 {status} Whatever\r\n{rows}\r\n".encode())

    def chunk(self, data: bytes) -> None:
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def event(self, event: dict[str, Any]) -> None:
        self.chunk(json.dumps(event).encode() + b"\n")

    def end_stream(self) -> None:
        self.send(b"0\r\n\r\n")

    def stream(self, *events: dict[str, Any]) -> None:
        """A whole ndjson answer."""
        self.start_stream()
        for event in events:
            self.event(event)
        self.end_stream()

    def reset(self) -> None:
        """Ends the connection with a reset instead of an orderly close."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def say_nothing(self, timeout_s: float = 600) -> None:
        """Keeps the connection open, silently, until the test is over."""
        self.stopped.wait(timeout_s)


Script = Callable[[Line, Received], bool | None]


class HostileServer:
    """Listens on 127.0.0.1. `script(line, request)` answers; its connection is closed unless it returns True."""

    def __init__(self, script: Script, tls: Credentials | None = None) -> None:
        self.script = script
        self.requests: list[Received] = []
        self.connections = 0
        self._stopped = threading.Event()
        self._context = _tls_context(tls) if tls else None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def posts(self) -> list[Received]:
        return [request for request in self.requests if request.method == "POST"]

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._open.add(connection)
            line = Line(connection, self._stopped)
            with connection.makefile("rb") as reader:
                while request := _read_request(reader):
                    self.requests.append(request)
                    if not self.script(line, request):
                        break
                else:
                    line.answer(400, "this is no HTTP")
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def _read_request(reader: Any) -> Received | None:
    if not reader.peek(1)[:1].isalpha():  # the end, or a TLS handshake, in which no line ends
        return None
    first = reader.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", "0")))
    return Received(first[0], first[1], headers, body)


def _tls_context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(credentials.tls_certificate)
        key.write_text(credentials.tls_key)
        context.load_cert_chain(certificate, key)
    return context


@contextlib.contextmanager
def hostile_server(script: Script, tls: Credentials | None = None) -> Iterator[HostileServer]:
    """A server for the time of a `with` block."""
    server = HostileServer(script, tls)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def dropping_server() -> Iterator[int]:
    """Its port, where nothing answers, not even with a refusal: as behind a firewall that drops what comes."""
    with contextlib.ExitStack() as held, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):  # with these the queue of connections is full, and Linux drops all others
            visitor = held.enter_context(socket.socket())
            visitor.setblocking(False)
            visitor.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
