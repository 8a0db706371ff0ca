"""Connections to the Fair server that never become a request: they are cut, and the others are not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from fair_server.connections import DeadlineProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Hasty(DeadlineProtocol):
    """The same with a deadline that a test can wait for."""

    headers_deadline_s = 0.5


async def slow_app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers after twice the deadline."""
    await asyncio.sleep(2 * Hasty.headers_deadline_s)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """The port of a server with that protocol."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(slow_app, http=Hasty, lifespan="off", log_config=None, timeout_keep_alive=60)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 20)


async def said(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """What comes back until the server cuts the connection; reset ones count as cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def drip() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)

    dripping = asyncio.create_task(drip())
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        dripping.cancel()
        writer.close()


@pytest.mark.parametrize("pieces", [[], [b"GET / HT"], [bytes([byte]) for byte in REQUEST[:-4] * 100]])
def test_no_request_comes(pieces: list[bytes]) -> None:
    """A connection on which nothing comes, a beginning, or byte after byte, is cut without an answer."""

    async def scenario() -> bytes:
        async with listening() as port:
            return await said(port, *pieces, pause_s=0.1)

    assert b" 204 " not in asyncio.run(scenario())


def test_a_slow_answer_is_not_cut() -> None:
    """Once the headers are there the answer may take as long as it does, for a further request as well."""

    async def scenario() -> None:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(REQUEST)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                assert b" 204 " in head.splitlines()[0] + b" "
                await asyncio.sleep(Hasty.headers_deadline_s)
            writer.close()

    asyncio.run(scenario())
