"""A TCP relay: a published host port whose program listens on another port."""

import asyncio
import contextlib

from fair_server.errors import CannotStart
from fair_server.ports import LOOPBACK

_PIECE_BYTES = 64 * 1024
_CONNECT_S = 10.0


class Relay:
    """Carries connections from a host port to a port on loopback, both ways, half-closes included.

    Like Docker's proxy it accepts at once and closes when nobody listens behind it.
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
        """Stops to listen and cuts every connection."""
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
