"""Servers of somebody else in place of ours: another certificate, another program."""

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from endpoint.credentials import Credentials


@contextlib.contextmanager
def mute_server(port: int) -> Iterator[None]:
    """Listens on the port, takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextlib.contextmanager
def foreign_tls_server(port: int) -> Iterator[list[bytes]]:
    """Listens on the port with somebody else's certificate and says that it is healthy. Gives what it heard."""
    heard: list[bytes] = []
    context = _context_of_somebody_else()
    listener = socket.create_server(("127.0.0.1", port))
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\nConnection: close\r\n\r\n{"state":"healthy"}'

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # it was closed
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                if said := secured.recv(65536):
                    heard.append(said)
                    secured.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _context_of_somebody_else() -> ssl.SSLContext:
    theirs = Credentials.from_secret("the secret of somebody else, long enough: 0123456789")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(theirs.tls_certificate)
        key.write_text(theirs.tls_key)
        context.load_cert_chain(certificate, key)
    return context
