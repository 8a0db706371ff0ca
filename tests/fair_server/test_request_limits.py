"""Connections to the Fair server that never become a request: they are cut, and the others are not."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from fair_server.request_limits import DeadlineProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
DEADLINE_S = 10_000.0  # of the test's own clock
_LONGER_S = 100 * DEADLINE_S


class HeldClock(asyncio.SelectorEventLoop):
    """An event loop whose timers go by a clock that a test moves on; without that it goes as all others."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    async def pass_time(self, seconds: float) -> None:
        """Moves the clock on, after all that has come and before all that is due then."""
        await _rounds()
        self.ahead_s += seconds
        await _rounds()


async def _rounds() -> None:
    """Lets the loop look for what has come a few times: a piece goes through a handful of callbacks."""
    for _ in range(20):
        await asyncio.sleep(0)


class Protocol(DeadlineProtocol):
    """The same with a deadline of which real time is no part worth mentioning."""

    headers_deadline_s = DEADLINE_S


class App:
    """Answers once it is told to."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self.asked.set()
        await self.go_on.wait()
        self.go_on.clear()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


@asynccontextmanager
async def listening(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with that protocol."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None, timeout_keep_alive=int(_LONGER_S))
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            yield reader, writer
            writer.close()
        finally:
            server.should_exit = True
            await serving


def run(scenario: Callable[[HeldClock], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=HeldClock) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, HeldClock)
        runner.run(scenario(loop))


@pytest.mark.parametrize("pieces", [[], [b"GET / HT"], [bytes([byte]) for byte in REQUEST[:-4] * 100]])
def test_no_request_comes(pieces: list[bytes]) -> None:
    """A connection on which nothing comes, a beginning, or byte after byte, is cut without an answer."""

    async def scenario(clock: HeldClock) -> None:
        async with listening(App()) as (reader, writer):
            answer = asyncio.create_task(reader.read())
            for piece in [*pieces, *[b""] * 1000][:1000]:
                writer.write(piece)
                await clock.pass_time(DEADLINE_S / 10)
                if answer.done():
                    break
            else:
                pytest.fail("the connection was never cut")
            with contextlib.suppress(ConnectionResetError):  # one that is reset is cut, too
                assert b" 204 " not in await answer

    run(scenario)


def test_a_slow_answer_is_not_cut() -> None:
    """Once the headers are there the answer may take as long as it does, for a further request as well."""

    async def scenario(clock: HeldClock) -> None:
        app = App()
        async with listening(app) as (reader, writer):
            for _ in range(2):
                writer.write(REQUEST)
                await app.asked.wait()
                app.asked.clear()
                await clock.pass_time(2 * DEADLINE_S)
                app.go_on.set()
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 204 " in head.splitlines()[0] + b" "
                await clock.pass_time(2 * DEADLINE_S)

    run(scenario)
