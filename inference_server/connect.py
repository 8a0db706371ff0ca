"""A worker: no port listens, it dials a Space and draws what comes over that line (`space_connection.py`)."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from inference_server.line_dial import Dial, Dialling, delays, delays_after_a_line
from inference_server.line_watch import LineWatch
from inference_server.space import Space
from inference_server.space_connection import FINISH_S, SpaceConnection, hello_of

log = logging.getLogger("inference_server.connect")

SILENT_S = 5.0  # so long after the Space's last word its line is suspect; leases come every 2.5 s
_LOOK_S = 0.1
SETTLED_S = 5.0  # a line that held for so long is made again at once


async def serve_space(
    space: Space,
    app: ASGIApp,
    health: Callable[[], dict[str, Any]],
    ending: asyncio.Event,
    on_line: Callable[[bool], None] = lambda _: None,
    keep: Callable[[float], None] = lambda keep_s: None,
    received: Callable[[str], None] = lambda request_id: None,
) -> None:
    """Draws what the Space sends until `ending` is set; then what is being drawn has `FINISH_S` to be finished.

    `app` answers the requests; `health`: the healthcheck's object; `on_line` is told True when there is a line, False
    when it is no more; `keep`: how long a request goes on whose Space is gone; `received`: which drawings have come to
    the Space. A line that breaks is made again for ever.
    """
    connected = asyncio.Event()
    hello = hello_of(space.name, secrets.token_hex(16))
    serve = partial(SpaceConnection, hello=hello, app=app, health=health, keep=keep, received=received)
    serving = asyncio.create_task(_reconnect(Dialling(space, hello), serve, ending, connected, on_line))
    stopping = asyncio.create_task(ending.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if connected.is_set():
        await asyncio.wait({serving}, timeout=FINISH_S + 5)
    for task in (serving, stopping):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _reconnect(
    dialling: Dialling,
    serve: Callable[[ClientConnection], SpaceConnection],
    ending: asyncio.Event,
    connected: asyncio.Event,  # while there is a line
    on_line: Callable[[bool], None],
) -> None:
    pauses = delays()
    dial = dialling.begin(delays)
    while True:
        line = await dial.line
        dialling.connected(line)
        connected.set()
        on_line(True)
        connection = serve(line)
        serving = asyncio.create_task(connection.run(ending))
        try:
            watch = LineWatch(line.transport.get_extra_info("socket"))
            redial = partial(dialling.begin, delays_after_a_line)
            newer = await _newer_line(serving, partial(_is_suspect, line, connection, watch), redial)
            if newer is not None:
                line.transport.abort()  # no farewell: nobody would hear it
            await serving
        finally:
            serving.cancel()
            await dial.close()
        connected.clear()
        on_line(False)
        if ending.is_set():
            if newer is not None:
                await newer.close()
            return
        log.warning("the line to %s broke (%s); connecting again", dialling.space.url, _closed_because(line))
        if newer is None:
            settled = connection.age_s > SETTLED_S
            if settled:
                pauses = delays_after_a_line()
            await asyncio.sleep(next(pauses))
            newer = dialling.begin(delays_after_a_line if settled else delays)
        dial = newer


async def _newer_line(
    serving: asyncio.Task[None], is_suspect: Callable[[], bool], redial: Callable[[], Dial]
) -> Dial | None:
    """Waits until the line has ended or a newer one is there, which is tried for while this one is suspect.

    Such a line may be dead without either end knowing, after a change of the uplink's address for instance, or only
    slow: then it goes on, and the try is given up, unless the Space may know of it. None: it has ended, and no try is
    under way.
    """
    dial: Dial | None = None
    try:
        while not serving.done():
            await asyncio.wait(
                {serving, *([dial.line] if dial else [])}, timeout=_LOOK_S, return_when="FIRST_COMPLETED"
            )
            if dial is not None and (dial.line.done() or serving.done()):
                kept, dial = dial, None
                return kept
            if dial is None and is_suspect():
                dial = redial()
            elif dial is not None and not dial.is_told and not is_suspect():
                await dial.close()
                dial = None
        return None
    finally:
        if dial is not None:
            await dial.close()


def _is_suspect(line: ClientConnection, connection: SpaceConnection, watch: LineWatch) -> bool:
    """Also from the Space's farewell on, if the line had held: until it has ended orderly, round trips may pass."""
    has_ended = line.state is not State.OPEN and connection.age_s > SETTLED_S and not connection.is_leaving
    return has_ended or connection.silent_s > SILENT_S or watch.is_suspect()


def _closed_because(line: ClientConnection) -> str:
    return line.close_reason or f"code {line.close_code}"
