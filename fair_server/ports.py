"""Ports of this machine: which are free, and which are promised to a program that has not opened them yet."""

import errno
import socket

from fair_server.errors import CannotStart

LOOPBACK = "127.0.0.1"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - a node whose address is not loopback publishes its ports


class Ports:
    """The host ports of running programs. Each is held by one program from before its start until its end."""

    def __init__(self) -> None:
        self._held: set[int] = set()

    def hold(self, port: int, address: str) -> None:
        """Promises the port to the caller.

        Raises:
            CannotStart: a program holds it, or something else on this machine listens there.
        """
        if port in self._held:
            raise CannotStart(
                f"Host port {port} is taken: another program of this server holds it. "
                "End that one, or ask for another port."
            )
        check_free(port, address, f"Host port {port}")
        self._held.add(port)

    def hold_free(self, address: str) -> int:
        """Promises a port that the system names free, and returns it."""
        while True:
            with socket.socket() as probe:
                probe.bind((address, 0))
                port = int(probe.getsockname()[1])
            if port not in self._held:
                self._held.add(port)
                return port

    def release(self, ports: set[int]) -> None:
        """Gives ports back."""
        self._held -= ports


def check_free(port: int, address: str, what: str) -> None:
    """Binds the port for a moment.

    Raises:
        CannotStart: it cannot be bound; the message starts with `what`.
    """
    with socket.socket() as probe:
        # As a server would: connections of an earlier one that linger must not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise CannotStart(
                    f"{what} is taken: something on this machine uses it. End that, or ask for another port."
                ) from exc
            raise CannotStart(f"{what} cannot be bound on {address}: {exc.strerror}. Ask for another port.") from exc
