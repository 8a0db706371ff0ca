"""Published ports: each is held by one program, and relayed where that program listens on another port."""

import asyncio
import contextlib
import errno
import socket

from fair_server.errors import CannotStart

LOOPBACK = "127.0.0.1"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - a node whose address is not loopback publishes its ports
_PIECE_BYTES = 64 * 1024
_CONNECT_S = 10.0


class HostPorts:
    """The host ports that running programs hold, each from before its program's start until its end."""

    def __init__(self) -> None:
        self._held: set[int] = set()

    def hold(self, port: int, address: str) -> None:
        """Holds the port for the caller.

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
        """Holds a port that the system says is free, and returns it."""
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


class Relay:
    """Relays connections from a host port to a port on loopback, both ways, half-closes included.

    Like Docker's proxy it accepts at once, and closes when nobody listens on the other port.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int) -> None:
        """Listens from now on.

        Raises:
            CannotStart: the port cannot be bound.
        """
        try:
            self._server = await asyncio.start_server(self._serve, address, port)
        except OSError as exc:
            raise CannotStart(f"Host port {port} cannot be opened on {address}: {exc.strerror}.") from exc

    async def close(self) -> None:
        """Stops listening and cuts every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError):
                await self._carry(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_CONNECT_S):
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pour(reader, far_writer))
                ways.create_task(_pour(far_reader, writer))
        except* OSError:
            pass  # one side was reset: both are closed
        finally:
            far_writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
