"""A job's events as a page wants them: the newest at a bearable pace, and a sign of life in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from drawing.events import Event
from drawing.jobs import Job


async def follow_latest(
    job: Job, *, at_least_every_s: float = 1.0, at_most_every_s: float = 0.1
) -> AsyncIterator[Event | None]:
    """The newest event whenever there is one, at most one per `at_most_every_s`; the last event comes without delay.

    Yields None when nothing new came for `at_least_every_s`: whoever follows on behalf of a visitor notices only while
    yielding that the visitor has gone. Events in between are skipped, so that a slow reader never lags behind. Holds
    no thread, and leaves the job alone when it is closed early.
    """
    newest: list[Event] = []
    news = asyncio.Event()

    async def pump() -> None:
        async with contextlib.aclosing(job.follow()) as events:  # type: ignore[type-var]
            async for event in events:
                newest[:] = [event]
                news.set()

    pumping = asyncio.create_task(pump())
    try:
        while news.is_set() or not pumping.done():
            waiting = asyncio.create_task(news.wait())
            await asyncio.wait({waiting, pumping}, timeout=at_least_every_s, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if news.is_set():
                news.clear()
                yield newest[0]
                await asyncio.wait({pumping}, timeout=at_most_every_s)
            elif not pumping.done():
                yield None
        await pumping  # a fault in there must not look like an end
    finally:
        pumping.cancel()


async def last_event(job: Job) -> Event:
    """The event that the job ends with, once it is there. Holds no thread."""
    last: Event | None = None
    async for event in job.follow():
        last = event
    if last is None:
        raise RuntimeError("the job ended without an event")
    return last
