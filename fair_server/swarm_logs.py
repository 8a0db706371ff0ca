"""What a service prints, read from the manager over the engine's socket.

Docker's SDK reads it in threads that cannot be stopped, and a log that is followed has no end of its own: it goes on
when the program has ended. This one is cancelled like any other task.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service/operation/ServiceLogs ("Stream format")
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import h11

_HEADER_BYTES = 8  # kind, three zeros, length as a big-endian number
_PIECE_BYTES = 64 * 1024
STDOUT_KIND, STDERR_KIND = 1, 2


class Piece(NamedTuple):
    """A piece of an output: 1 is stdout, 2 is stderr."""

    kind: int
    data: bytes


async def service_logs(socket_path: str, version: str, service_id: str, *, follow: bool) -> AsyncIterator[Piece]:
    """Yields all that the service has printed; with `follow` it waits for more and ends only when it is cancelled.

    Raises:
        OSError: the manager does not answer, or the service is gone.
    """
    reader, writer = await asyncio.open_unix_connection(socket_path)
    try:
        path = f"/v{version}/services/{service_id}/logs?stdout=1&stderr=1&follow={int(follow)}"
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=path, headers=[("Host", "docker"), ("Connection", "close")])
        writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        pending = bytearray()
        async for data in _body(reader, connection):
            pending += data
            for piece in _frames(pending):
                yield piece
    except h11.RemoteProtocolError as exc:
        raise ConnectionError("the engine's answer broke off") from exc
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, connection: h11.Connection) -> AsyncIterator[bytes]:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE_BYTES))
        elif isinstance(event, h11.Response):
            if event.status_code != 200:
                raise ConnectionError(f"the engine answered {event.status_code}")
        elif isinstance(event, h11.Data):
            yield bytes(event.data)
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return


def _frames(pending: bytearray) -> list[Piece]:
    """Takes the whole frames out of what has come."""
    pieces, at = [], 0
    while len(pending) - at >= _HEADER_BYTES:
        end = at + _HEADER_BYTES + int.from_bytes(pending[at + 4 : at + _HEADER_BYTES])
        if end > len(pending):
            break
        pieces.append(Piece(pending[at], bytes(pending[at + _HEADER_BYTES : end])))
        at = end
    del pending[:at]
    return pieces
