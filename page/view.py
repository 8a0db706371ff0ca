"""One look of the page while a drawing goes on: what changes on the screen, as values for Gradio's outputs."""

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from drawing.events import Event, Picture, Step
from errors import SpaceError
from page import text as page_text
from page.picture_file import preview_html

NO_JOB = "none"  # nothing falsy: Gradio's BrowserState does not save that, and the browser would remember the old job


@dataclass(frozen=True)
class View:
    """What changes on the screen; None leaves a part as it is.

    `busy`: a drawing is under way; `job_id`: what the browser remembers, `NO_JOB` makes it forget; `seed`: for its
    field.
    """

    status: str
    preview: str | None = None
    busy: bool | None = None
    picture: FileData | None = None
    alt_text: str | None = None
    seed: int | None = None
    job_id: str | None = None
    prompt: str | None = None

    def outputs(self) -> tuple[Any, ...]:
        """In the order of app.py's `screen`: status, preview, Draw, Cancel, result, seed, job id, prompt."""
        draw, cancel, result = gr.skip(), gr.skip(), gr.skip()
        if self.busy is not None:
            draw = gr.update(value="Drawing…" if self.busy else "Draw", interactive=not self.busy)
            cancel = gr.update(visible=self.busy)
        if self.picture is not None:
            result = gr.update(value=self.picture.model_dump(), alt_text=self.alt_text)
        rest = (gr.skip() if value is None else value for value in (self.seed, self.job_id, self.prompt))
        return (self.status, gr.skip() if self.preview is None else self.preview, draw, cancel, result, *rest)


def under_way(event: Event, elapsed_s: float) -> View:
    """The look for an event before the last one."""
    preview = preview_html(event.preview) if isinstance(event, Step) and event.preview else None
    return View(page_text.event_html(event, elapsed_s), preview=preview)


def finished(event: Event, elapsed_s: float, picture: FileData | None, prompt: str, note: str = "") -> View:
    """The look for a job's last event. Without a picture the one before stays, and the browser forgets the job.

    `note`: what else is to be said of a picture, plain text.
    """
    sentence = page_text.event_html(event, elapsed_s)
    if not isinstance(event, Picture):
        return View(sentence, preview="", busy=False, job_id=NO_JOB)
    sentence += f". {escape(note)}" if note else ""
    return View(sentence, preview="", busy=False, picture=picture, alt_text=prompt, seed=event.drawing.seed)


def failed(error: SpaceError) -> View:
    """The look for a job that cannot be shown any more; the browser forgets it."""
    return View(page_text.error_html(error), preview="", busy=False, job_id=NO_JOB)


UNCHANGED = (gr.skip(),) * len(View("").outputs())
