"""What the page shows of a drawing: its newest event at a bearable pace, and a view of it as Gradio's outputs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from drawing.events import Event, Picture, Step
from drawing.jobs import Job
from page import text as page_text
from page.picture_file import preview_html
from page.record import record

NO_JOB = "none"  # nothing falsy: Gradio's BrowserState does not save that, and the browser would remember the old job


@dataclass(frozen=True)
class View:
    """What changes on the screen; None leaves a part as it is.

    `busy`: a drawing is under way; `job_id`: what the browser remembers, `NO_JOB` makes it forget; `seed`: for its
    field; `record`: what the browser keeps beside the picture, see page/record.py.
    """

    status: str
    preview: str | None = None
    busy: bool | None = None
    picture: FileData | None = None
    alt_text: str | None = None
    seed: int | None = None
    job_id: str | None = None
    prompt: str | None = None
    record: dict[str, Any] | None = None

    def outputs(self) -> tuple[Any, ...]:
        """In the order of layout.py's `screen`: status, preview, Draw, Cancel, result, seed, job id, prompt, record."""
        draw, cancel, result = gr.skip(), gr.skip(), gr.skip()
        if self.busy is not None:
            draw = gr.update(value="Drawing…" if self.busy else "Draw", interactive=not self.busy)
            cancel = gr.update(visible=self.busy)
        if self.picture is not None:
            result = gr.update(value=self.picture.model_dump(), alt_text=self.alt_text)
        rest = (gr.skip() if value is None else value for value in (self.seed, self.job_id, self.prompt, self.record))
        return (self.status, gr.skip() if self.preview is None else self.preview, draw, cancel, result, *rest)


UNCHANGED = (gr.skip(),) * len(View("").outputs())


def in_progress(event: Event | None, elapsed_s: float) -> View:
    """The view for an event before the last one, or for none yet."""
    if event is None:
        return View(page_text.waiting_html(page_text.ASKED, elapsed_s))
    preview = preview_html(event.preview) if isinstance(event, Step) and event.preview else None
    return View(page_text.event_html(event, elapsed_s), preview=preview)


def finished(event: Picture, job: Job, picture: FileData, note: str = "") -> View:
    """The view of a finished picture. `note`: what else to say of it, plain text."""
    return View(
        page_text.picture_html(event.generated, job.elapsed_s, note),
        preview="",
        busy=False,
        picture=picture,
        alt_text=job.request.prompt,
        seed=event.generated.seed,
        record=record(event, job, picture.path),
    )


def ended(sentence: str) -> View:
    """The view for a job without a picture: `sentence` (HTML) says why. The last picture stays; the browser forgets the
    job.
    """
    return View(sentence, preview="", busy=False, job_id=NO_JOB)


async def follow_latest(
    job: Job, *, at_least_every_s: float = 1.0, at_most_every_s: float = 0.1
) -> AsyncIterator[Event | None]:
    """The newest event whenever there is one, at most one per `at_most_every_s`; the last event comes without delay.

    Yields None when nothing new came for `at_least_every_s`: Gradio notices only at a yield that a visitor has gone.
    Skips the events in between, so that a slow reader never lags behind. Holds no thread, and leaves the job alone when
    it is closed early.
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
