"""What the page shows of a drawing: its newest event at a bearable pace, and a view of it as Gradio's outputs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from drawing.events import Cancelled, Event, Failed, Picture, Step
from drawing.jobs import Job
from page import text as page_text
from page.drawings import Drawings
from page.language import ENGLISH, Words
from page.picture_file import preview_html
from page.record import record
from page.several import several_html

NO_JOB = "none"  # nothing falsy: Gradio's BrowserState does not save that, and the browser would remember the old job


@dataclass(frozen=True)
class View:
    """What changes on the screen; None leaves a part as it is.

    `busy`: a drawing is under way; `job_id`: what the browser remembers, `NO_JOB` makes it forget; `seed`: for its
    field; `records`: what the browser keeps beside each picture that is there, see page/record.py; `words`: for
    the buttons.
    """

    status: str
    preview: str | None = None
    busy: bool | None = None
    picture: FileData | None = None
    alt_text: str | None = None
    seed: int | None = None
    job_id: str | None = None
    prompt: str | None = None
    records: list[dict[str, Any]] | None = None
    words: Words = ENGLISH

    def outputs(self) -> tuple[Any, ...]:
        """In the order of layout.py's `screen`: status, preview, Draw, Cancel, result, seed, job, prompt, records."""
        draw, cancel, result = gr.skip(), gr.skip(), gr.skip()
        if self.busy is not None:
            draw = gr.update(value=self.words["drawing_now" if self.busy else "draw"], interactive=not self.busy)
            cancel = gr.update(visible=self.busy)
        if self.picture is not None:
            result = gr.update(value=self.picture.model_dump(), alt_text=self.alt_text)
        rest = (gr.skip() if value is None else value for value in (self.seed, self.job_id, self.prompt, self.records))
        return (self.status, gr.skip() if self.preview is None else self.preview, draw, cancel, result, *rest)


UNCHANGED = (gr.skip(),) * len(View("").outputs())


def look(
    drawings: Drawings,
    events: Sequence[Event | None],
    files: dict[str, FileData],
    note: str = "",
    words: Words = ENGLISH,
) -> View:
    """The view of drawings whose newest events are these. `files`: of the finished pictures, by job; `note`: what else
    to say of them, plain text.
    """
    kept = [(event, job) for event, job in zip(events, drawings.jobs, strict=True) if isinstance(event, Picture)]
    records = [record(event, job, files[job.id], words) for event, job in kept]
    if len(events) > 1:
        return _look_at_several(drawings, events, records, note, words)
    (event,) = events
    if isinstance(event, Picture):
        return View(
            page_text.picture_html(event.generated, drawings.elapsed_s, note, words),
            preview="",
            busy=False,
            picture=files[drawings.jobs[0].id],
            alt_text=drawings.jobs[0].request.prompt,
            seed=event.generated.seed,
            records=records,
            words=words,
        )
    if event is None:
        return View(page_text.waiting_html(words["asked"], drawings.elapsed_s, words), words=words)
    sentence = page_text.event_html(event, drawings.elapsed_s, words)
    if isinstance(event, Failed | Cancelled):
        return ended(sentence, words)
    preview = preview_html(event.preview, words) if isinstance(event, Step) and event.preview else None
    return View(sentence, preview=preview, words=words)


def _look_at_several(
    drawings: Drawings, events: Sequence[Event | None], records: list[dict[str, Any]], note: str, words: Words
) -> View:
    """The browser shows the pictures that are there, as a grid, and the previews of the others in their places."""
    ids = [job.id for job in drawings.jobs]
    for one in records:
        one["set"] = {"id": ids[0], "place": ids.index(one["id"]), "of": len(ids)}
    sentence = several_html(events, drawings.elapsed_s, note, drawings.refused, words)
    if not all(isinstance(event, Picture | Failed | Cancelled) for event in events):
        return View(sentence, preview=_previews_html(events, drawings, words), records=records or None, words=words)
    if not records:
        return ended(sentence, words)
    records[-1]["set"]["is_complete"] = True
    return View(sentence, preview="", busy=False, seed=records[0]["seed"], records=records, words=words)


def _previews_html(events: Sequence[Event | None], drawings: Drawings, words: Words) -> str:
    shown = [
        preview_html(event.preview, words) if isinstance(event, Step) and event.preview else "" for event in events
    ]
    tiles = "".join(f"<div>{one}</div>" for one in shown)
    asked = drawings.jobs[0].request
    wide = " is-wide" if len(events) == 2 and (asked.width or 0) > (asked.height or 0) else ""
    return f'<div class="tiles of-{len(events)}{wide}">{tiles}</div>' if any(shown) else ""


def ended(sentence: str, words: Words = ENGLISH) -> View:
    """The view for a job without a picture: `sentence` (HTML) says why. The last picture stays; the browser forgets the
    job.
    """
    return View(sentence, preview="", busy=False, job_id=NO_JOB, words=words)


async def follow_latest(
    *jobs: Job, at_least_every_s: float = 1.0, at_most_every_s: float = 0.1
) -> AsyncIterator[tuple[Event | None, ...]]:
    """The newest event of each job whenever there is one, at most once per `at_most_every_s`; the last ones come
    without delay.

    Yields the same again when nothing new came for `at_least_every_s`: Gradio notices only at a yield that a visitor
    has gone. Skips the events in between, so that a slow reader never lags behind. Holds no thread, and leaves the jobs
    alone when it is closed early.
    """
    newest: list[Event | None] = [None for _ in jobs]
    news = asyncio.Event()

    async def pump(number: int, job: Job) -> None:
        async with contextlib.aclosing(job.follow()) as events:  # type: ignore[type-var]
            async for event in events:
                newest[number] = event
                news.set()

    pumps = [asyncio.create_task(pump(number, job)) for number, job in enumerate(jobs)]
    pumping = asyncio.gather(*pumps, return_exceptions=True)
    try:
        while news.is_set() or not pumping.done():
            waiting = asyncio.create_task(news.wait())
            either: set[asyncio.Future[Any]] = {waiting, pumping}
            await asyncio.wait(either, timeout=at_least_every_s, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if news.is_set():
                news.clear()
                yield tuple(newest)
                await asyncio.wait({pumping}, timeout=at_most_every_s)
            elif not pumping.done():
                yield tuple(newest)
        for one in pumps:
            await one  # a fault in there must not look like an end
    finally:
        for one in pumps:
            one.cancel()
