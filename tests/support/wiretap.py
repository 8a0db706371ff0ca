"""A TCP proxy that keeps what passes through it."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Wiretap:
    """Carries every connection to `port` to the port behind it; `heard` is all that passed, both ways."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._lock = threading.Lock()
        self._heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def heard(self) -> bytes:
        """What has passed so far."""
        with self._lock:
            return bytes(self._heard)

    def close(self) -> None:
        """Takes no more connections."""
        with contextlib.suppress(OSError):  # it is closed
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes that thread: until then the port would stay open
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # it was closed
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:  # nobody listens there yet, or any more: so it is told, and the next one may be luckier
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pour, args=(source, sink), daemon=True).start()

    def _pour(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                with self._lock:
                    self._heard += piece
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def wiretap(target_port: int) -> Iterator[Wiretap]:
    """A wiretap in front of a port of this machine."""
    tap = Wiretap(target_port)
    try:
        yield tap
    finally:
        tap.close()
